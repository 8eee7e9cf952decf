"""The beat of a run: its lease is renewed, and how its actors are is written down."""

import threading
from typing import Any

from agent.hosting.hosts import Hosts
from agent.progress import Progress
from search.errors import BusyError, RatchetError
from store.database import Store, now_us
from store.leases import RunLease
from store.schema import ActorRow, SpeculationRow
from store.states import ActorState

BEAT_EVERY_S = 10.0


class Heartbeat:
    """A thread of its own; `lost` is set when another process has taken the run over."""

    def __init__(self, store: Store, lease: RunLease, hosts: Hosts, progress: Progress) -> None:
        self.store = store
        self.lease = lease
        self.hosts = hosts
        self.progress = progress
        self.lost: BusyError | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and write down that the actors have stopped."""
        self._stopping.set()
        self._thread.join()
        try:
            self._note_health(ActorState.STOPPED)
        except RatchetError as error:
            self.progress.say(f"warning: {error.message}")

    def _beat(self) -> None:
        wait_s = 1.0
        while not self._stopping.wait(wait_s):
            wait_s = BEAT_EVERY_S
            try:
                self.lease.renew()
                self._note_health()
            except BusyError as error:
                self.lost = error
                self.progress.say(f"warning: {error.message}")
            except Exception as error:  # whatever it was, the next beat must come
                self.progress.say(f"warning: no heartbeat: {error}")

    def _note_health(self, state: str = "") -> None:
        health = self.hosts.health()
        with self.store.session() as session:
            for role, seen in health.items():
                versions = seen.get("versions") or [""]
                session.merge(
                    ActorRow(
                        run_id=self.lease.run_id,
                        role=role,
                        state=state or seen["state"],
                        version=versions[-1],
                        device=seen.get("device", ""),
                        pid=seen.get("pid", 0),
                        num_restarts=seen.get("restarts", 0),
                        seen_ts=now_us(),
                    )
                )
                for row in _speculation(role, seen.get("speculation") or {}):
                    session.merge(row)


def _speculation(role: str, report: dict[str, Any]) -> list[SpeculationRow]:
    """Rows of what an actor says of its drafts."""
    return [
        SpeculationRow(
            policy_version=report["policy"],
            drafter_version=report["drafter"],
            source=source,
            actor=role,
            acceptance=seen["acceptance"],
            accepted_length=seen["accepted_length"],
            num_drafted=seen["drafted"],
            num_accepted=seen["accepted"],
            costs=report["costs_ms"],
            selftest=report["selftest"],
            seen_ts=now_us(),
        )
        for source, seen in report.get("sources", {}).items()
    ]
