"""The one writer of a search stage: journals and ended searches, also while the store is away.

When the store does not answer, journals go to a spool on this host and ended searches wait in
memory, so the models go on working. Once it answers, the spool is drained and the waiting searches
are committed in order. A process killed in between loses nothing: the searches are rebuilt from
store and spool. A full spool makes the searches wait.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.rounds import failpoints
from agent.rounds.context import RunContext
from search.errors import StoreAwayError
from search.journal import Entry
from store.recording import add_event, add_journal
from store.schema import Run
from store.spool import Holder, Spool
from store.states import EventKind

TRY_EVERY_S = 1.0
PAUSE_S = 0.2

Commit = Callable[[], None]


def spool_of(context: RunContext) -> Spool:
    """A file beside the checkpoints, named after the run and the time of its creation."""
    with context.store.session() as session:
        row = session.get_one(Run, context.lease.run_id)
        name = f"{row.name} {row.created_ts}"
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    folder = Path(context.config.checkpoints.folder).expanduser()
    return Spool(folder / f"spool-{digest}.db", Holder(name, context.lease.fence))


class Recorder:
    """Shared by the cohorts of a stage; each method is called by any of their threads."""

    def __init__(self, context: RunContext, should_stop: Callable[[], bool]) -> None:
        self.context = context
        self.should_stop = should_stop
        self.spool = spool_of(context)
        self._waiting: list[Commit] = []
        self._away_since = 0.0
        """Monotonic seconds; 0 while the store answers."""
        self._tried = 0.0
        self._lock = threading.RLock()
        aside = self.spool.set_aside()
        if aside is not None:
            context.progress.say(f"warning: {aside} is another holder's spool and is not used")
        self._drain()

    def journal(self, entries: Sequence[tuple[int, int, Entry]]) -> None:
        """Write what searches were told, to the store or to the spool."""

        def write() -> None:
            with self.context.store.session(0.0) as session:
                self.context.lease.guard(session)
                add_journal(session, entries)

        with self._lock:
            while not self._done(write):
                if not self.spool.is_full:
                    self.spool.add(entries)
                    return
                self._pause()

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
        drained = {
            "away_s": round(away_s, 1),
            "entries": num_entries,
            "searches": num_searches,
            "drain_s": round(time.monotonic() - began, 2),
        }
        with (
            contextlib.suppress(StoreAwayError),  # away once more: what is next will notice
            self.context.store.session(0.0) as session,
        ):
            add_event(session, self.context.lease.run_id, EventKind.STORE_AWAY, drained)
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
                f"the store {self.context.store.shown} has not answered for {waited:.0f} s; what "
                f"was found meanwhile is kept in {self.spool.path}",
                "when it answers again, run the same command again",
            )
        time.sleep(PAUSE_S)
