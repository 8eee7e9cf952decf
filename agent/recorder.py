"""The one writer of a search stage: journals and ended searches, also while the store is away.

When the store does not answer, journals go to a spool on this host and ended searches wait in
memory, so the models go on working. Once it answers, the spool is drained and the waiting searches
are committed in order. A process killed in between loses nothing: the searches are rebuilt from
store and spool. A full spool makes the searches wait.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import failpoints
from agent.context import RunContext
from search.errors import StoreAwayError
from search.journal import Entry
from store.recording import add_event, add_journal
from store.spool import Spool

TRY_EVERY_S = 1.0

Commit = Callable[[], None]


def spool_path(context: RunContext) -> Path:
    """File beside the checkpoints, named after the store and the run."""
    digest = hashlib.sha256(context.config.store.encode()).hexdigest()[:8]
    folder = Path(context.config.checkpoints).expanduser()
    return folder / f"spool-{digest}-{context.lease.run_id}.db"


class Recorder:
    """Shared by the cohorts of a stage; each method is called by any of their threads."""

    def __init__(self, context: RunContext, should_stop: Callable[[], bool]) -> None:
        self.context = context
        self.should_stop = should_stop
        self.spool = Spool(spool_path(context))
        self._waiting: list[Commit] = []
        self._away_since = 0.0
        """Monotonic seconds; 0 while the store answers."""
        self._tried = 0.0
        self._lock = threading.RLock()
        self._drain()

    def journal(self, entries: Sequence[tuple[int, int, Entry]]) -> None:
        """Write what searches were told, to the store or to the spool."""

        def write() -> None:
            with self.context.store.session(0.0) as session:
                self.context.lease.guard(session)
                add_journal(session, entries)

        with self._lock:
            if not self._done(write):
                while self.spool.is_full and not self._is_back():
                    self._pause()
                if self._away_since:
                    self.spool.add(entries)
                else:
                    write()

    def commit(self, write: Commit) -> None:
        """End a search now, or as soon as the store answers; ended twice it is ended once."""
        with self._lock:
            if not self._done(write):
                self._waiting.append(write)

    def finish(self) -> None:
        """Wait until everything is in the store. Raises StoreAwayError when it stays away."""
        with self._lock:
            while self._away_since and not self._is_back():
                self._pause()

    def _done(self, write: Commit) -> bool:
        if self._away_since and not self._is_back():
            return False
        try:
            write()
            return True
        except StoreAwayError as error:
            self._away_since = self._tried = time.monotonic()
            self.context.progress.say(f"warning: {error.message}; going on with the spool")
            return False

    def _is_back(self) -> bool:
        """Try again, though not too often; when the store answers, hand over all that waited."""
        if not self._away_since:
            return True
        if time.monotonic() - self._tried < TRY_EVERY_S:
            return False
        try:
            began = time.monotonic()
            num_entries, num_searches = self._drain(), len(self._waiting)
            while self._waiting:
                self._waiting[0]()
                self._waiting.pop(0)
        except StoreAwayError:
            self._tried = time.monotonic()
            return False
        away_s, self._away_since = began - self._away_since, 0.0
        drained = {"away_s": round(away_s, 1), "entries": num_entries, "searches": num_searches,
                   "drain_s": round(time.monotonic() - began, 2)}  # fmt: skip
        with self.context.store.session() as session:
            add_event(session, self.context.lease.run_id, "store-away", drained)
        self.context.progress.say(
            f"the store answers again after {away_s:.0f} s: {num_entries} entries and "
            f"{num_searches} searches were handed over in {drained['drain_s']} s"
        )
        return True

    def _drain(self) -> int:
        if not self.spool.path.is_file():
            return 0
        with self.context.store.session(0.0 if self._away_since else None) as session:
            self.context.lease.guard(session)
            num = self.spool.drain(session)
        failpoints.hit("after-drain")
        self.spool.clear()
        return num

    def _pause(self) -> None:
        waited = time.monotonic() - self._away_since
        if self.should_stop() or waited > self.context.store.patience_s:
            raise StoreAwayError(
                f"the store {self.context.store.url} has not answered for {waited:.0f} s; what was "
                f"found meanwhile is kept in {self.spool.path}",
                "when it answers again, run the same command again",
            )
        time.sleep(min(TRY_EVERY_S, 0.2))
