"""Who works on a run: a lease with a fence on the run's row, and the claim of its searches.

The lease of a process of this host is compared by the time since boot, which nobody sets; another
host's by the database's own clock. A holder of this host that is no longer alive is replaced at
once; any other only when its lease has run out.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any, cast

from sqlalchemy import CursorResult, select, text, update
from sqlalchemy.orm import Session

from search.errors import BusyError, NotFoundError
from store.database import Store
from store.schema import Run

LEASE_S = 60


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks, which tells a reused id apart; empty when gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _is_alive(pid: int, start: str) -> bool:
    if Path("/proc/self/stat").exists():
        return _process_start(pid) == start != ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def owner_name() -> str:
    return f"{socket.gethostname()} {os.getpid()} {_process_start(os.getpid()) or '0'}"


def is_gone(owner: str) -> bool:
    """Whether an owner of this host is no longer alive; False for one of another host."""
    host, _, rest = owner.partition(" ")
    pid, _, start = rest.partition(" ")
    return host == socket.gethostname() and pid.isdigit() and not _is_alive(int(pid), start)


def clock_us(session: Session) -> int:
    """The database's clock in microseconds."""
    if session.get_bind().dialect.name == "sqlite":
        statement = "SELECT CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"
    else:
        statement = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
    return int(session.execute(text(statement)).scalar_one())


def boot_us() -> int:
    """Microseconds since this host was started; the wall clock does not move it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(clock) // 1000


def left_us(run: Run, now: int) -> int:
    """Microseconds that a run's lease still has, at `now` of the database's clock.

    None are left to a process of this host that is gone.
    """
    if not run.owner or is_gone(run.owner):
        return 0
    if run.owner.partition(" ")[0] == socket.gethostname():
        return max(0, run.lease_until_boot - boot_us())
    return max(0, run.lease_until_ts - now)


def _until(session: Session) -> dict[str, int]:
    """Columns of a lease that begins now."""
    length = LEASE_S * 1_000_000
    return {"lease_until_ts": clock_us(session) + length, "lease_until_boot": boot_us() + length}


class RunLease:
    """Held while a process works on a run. `fence` goes into everything that it claims."""

    def __init__(self, store: Store, run_id: int) -> None:
        self.store = store
        self.run_id = run_id
        self.owner = owner_name()
        self.fence = self._acquire()

    def _acquire(self) -> int:
        with self.store.session() as session:
            run = session.execute(
                select(Run).where(Run.id == self.run_id).with_for_update()
            ).scalar_one_or_none()
            if run is None:
                raise NotFoundError(f"there is no run {self.run_id}")
            now = clock_us(session)
            if run.owner != self.owner and left_us(run, now) > 0:
                host, pid, _ = run.owner.split(" ")
                left = left_us(run, now) / 1e6
                raise BusyError(
                    f"run {run.name!r} is being worked on by process {pid} on {host} "
                    f"(lease for another {left:.0f} s)",
                    "wait for it, stop it, or start another run with --run NAME",
                )
            fence = run.fence + 1
            # The comparison with the fence makes two simultaneous claims exclude each other.
            claimed = session.execute(
                update(Run)
                .where(Run.id == self.run_id, Run.fence == fence - 1)
                .values(fence=fence, owner=self.owner, **_until(session))
            )
            if cast(CursorResult[Any], claimed).rowcount != 1:
                raise BusyError(f"run {run.name!r} was just taken by another process", "try again")
            return fence

    def renew(self) -> None:
        """Raises BusyError when another process has taken the run over."""
        with self.store.session() as session:
            renewed = session.execute(
                update(Run)
                .where(Run.id == self.run_id, Run.fence == self.fence)
                .values(**_until(session))
            )
            if cast(CursorResult[Any], renewed).rowcount != 1:
                raise BusyError("another process has taken this run over", "let that one go on")

    def guard(self, session: Session) -> None:
        """Raises BusyError inside a transaction of a process that has lost its lease."""
        # A write, so that both databases hold the row's lock until the transaction ends.
        held = session.execute(
            update(Run)
            .where(Run.id == self.run_id, Run.fence == self.fence)
            .values(fence=self.fence)
        )
        if cast(CursorResult[Any], held).rowcount != 1:
            raise BusyError("another process has taken this run over", "let that one go on")

    def release(self) -> None:
        with self.store.session() as session:
            session.execute(
                update(Run)
                .where(Run.id == self.run_id, Run.fence == self.fence)
                .values(owner="", lease_until_ts=0, lease_until_boot=0)
            )
