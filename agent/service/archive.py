"""The store's side of the service: each search that ended is written, also while the store is away.

A thread of its own writes, so that nobody waits for the store. What cannot be written stays in
memory and is tried again; when too much waits, the service is no longer ready.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from agent.config.settings import Config
from agent.rounds.code_version import code_version
from agent.search_models import Models
from agent.service.tickets import Ticket
from search.errors import BusyError, RatchetError, UsageError
from store.database import Store, open_store
from store.leases import LEASE_S, RunLease
from store.rounds import open_round
from store.runs import create_run, find_run
from store.served import (
    Served,
    add_served,
    close_served_round,
    cutoff_us,
    drop_served,
    open_served_round,
)

RETRY_S = 1.0
TRIM_S = 3600.0

log = logging.getLogger("ratchet")


class Archive:
    """Holds the lease of the service's run for as long as it is open."""

    def __init__(
        self, config: Config, newest: Callable[[], Models], most_waiting: int = 1000
    ) -> None:
        """`newest` are the models that the round is named after; a search of others says so itself.

        Raises BusyError where another service writes to the same run, UsageError for a run of
        another task.
        """
        self.config = config
        self._newest = newest
        self.most_waiting = most_waiting
        self.store: Store = open_store(config.store)
        self.lease = RunLease(self.store, self._run_id())
        self._waiting: deque[Ticket] = deque()
        self.error = ""
        """Why nothing can be written at the moment."""
        self.num_written = 0
        self.commit_s = 0.0
        """Seconds that the last one took to be written."""
        self._renewed = self._trimmed = 0.0
        self._is_closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="archive", daemon=True)
        self._thread.start()

    def _run_id(self) -> int:
        config, name = self.config, self.config.serve.run
        with self.store.session() as session:
            run = find_run(session, name)
            if run is not None and run.task != config.task:
                raise UsageError(
                    f"run {name!r} holds searches of task {run.task!r}, not {config.task!r}",
                    "give another with --set serve.run=NAME",
                )
            return create_run(
                session,
                name,
                task=config.task,
                config=config.model_dump(mode="json") | {"serves": config.run},
                config_sha=config.digest(),
                code_version=code_version(),
                seed=config.seed,
            )

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_ready(self) -> bool:
        """Whether what ends now can be kept."""
        return len(self._waiting) < self.most_waiting and self._thread.is_alive()

    def put(self, ticket: Ticket) -> None:
        """Have an ended search written."""
        with self._changed:
            self._waiting.append(ticket)
            self._changed.notify_all()

    def waiting_ids(self) -> set[str]:
        """Of searches that are not written yet."""
        return {t.request_id for t in list(self._waiting)}

    def close(self, patience_s: float) -> int:
        """Write what waits, end the round and give the lease back; how many were not written."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(patience_s)
        left = len(self._waiting)
        if not left:
            try:
                with self.store.session() as session:
                    self.lease.guard(session)
                    row = open_round(session, self.lease.run_id)
                    if row is not None:
                        close_served_round(session, row)
                self.lease.release()
            except RatchetError as error:
                log.warning("the service's round stays open: %s", error)
        self.store.close()
        return left

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait(RETRY_S)
            try:
                self._beat()
                self._write_next()
                self.error = ""
            except BusyError as error:
                self.error = error.message
                log.error("%s; nothing more is stored", error.message)
                return
            except Exception as error:
                # A full disk, a server that is away, a locked file: all of them pass.
                told = error.message if isinstance(error, RatchetError) else ""
                text = told or f"{type(error).__name__}: {error}"
                if not self.error:
                    log.warning("%s; searches wait in memory", text, exc_info=not told)
                self.error = text
                if self._is_closing:
                    return
                time.sleep(RETRY_S)

    def _write_next(self) -> None:
        if not self._waiting:
            return
        ticket, began = self._waiting[0], time.monotonic()
        try:
            self._write(ticket)
        except RatchetError:
            # If the store refuses this one alone, it must not stand before all others.
            self._waiting.rotate(-1)
            raise
        except Exception:
            log.exception("search %s is not stored", ticket.request_id)
        else:
            self.num_written += 1
        self.commit_s = time.monotonic() - began
        self._waiting.popleft()

    def _beat(self) -> None:
        """Keep the lease, and remove what is too old."""
        now = time.monotonic()
        if now - self._renewed > LEASE_S / 3:
            self.lease.renew()
            self._renewed = now
        days = self.config.serve.keep_days
        if days and now - self._trimmed > TRIM_S:
            with self.store.session() as session:
                self.lease.guard(session)
                gone = drop_served(session, self.lease.run_id, cutoff_us(days))
            if not gone:
                self._trimmed = now

    def _write(self, ticket: Ticket) -> None:
        newest = self._newest()
        settings = self.config.model_dump(mode="json") | {"search": newest.settings.as_dict()}
        with self.store.session() as session:
            self.lease.guard(session)
            row = open_served_round(session, self.lease.run_id, newest.versions, settings)
            version = ticket.models.policy.version
            served = Served(ticket.request_id, ticket.owner, ticket.problem, ticket.search, version)
            add_served(
                session, self.config.task, row.id, self.lease.fence, served, lambda answer: None
            )
