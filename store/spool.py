"""Journal entries kept on this host while the store does not answer.

The answers that a search was told are the whole of its state (search.journal), so this is all that
must not be lost. A SQLite file of its own, bounded in size, read back in the order of writing.
"""

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.errors import ResourceError
from search.journal import Entry
from store.recording import add_journal
from store.schema import JournalRow, SearchRow
from store.states import OPEN

MAX_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose searches a spool is about."""

    run: str
    """Of which run: its name and the time of its creation, which no other store has."""
    fence: int


class Spool:
    """Entries by search and place. Opened again after a kill it is as it was.

    It is read back only by the holder that wrote it or the very next one of the run: in between
    nobody else can have taken the searches further.
    """

    def __init__(self, path: Path, holder: Holder, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self.holder = holder
        self.max_bytes = max_bytes

    @property
    def num_bytes(self) -> int:
        """Of the entries, as written."""
        if not self.path.is_file():
            return 0
        with self._open() as connection:
            (size,) = connection.execute("SELECT sum(length(entry)) FROM entries").fetchone()
        return size or 0

    @property
    def is_full(self) -> bool:
        return self.num_bytes >= self.max_bytes

    def add(self, entries: Sequence[tuple[int, int, Entry]]) -> None:
        """Append (search id, place, entry) in one transaction. Raises ResourceError."""
        with self._open() as connection, connection:
            connection.execute(
                "INSERT INTO holders SELECT ?, ? WHERE NOT EXISTS (SELECT 1 FROM holders)",
                (self.holder.run, self.holder.fence),
            )
            connection.executemany(
                "INSERT OR IGNORE INTO entries VALUES (?, ?, ?)",
                [(i, n, json.dumps(entry)) for i, n, entry in entries],
            )

    def drain(self, session: Session) -> int:
        """Write the entries of searches under way to their journals; how many were missing there.

        The caller commits, then calls `clear`; what was written before is not written twice.
        """
        if not self.path.is_file():
            return 0
        with self._open() as connection:
            found = connection.execute("SELECT search_id, seq, entry FROM entries ORDER BY rowid")
            try:
                rows = [(i, n, json.loads(entry)) for i, n, entry in found]
            except ValueError as error:
                raise _unreadable(self.path, error) from error
        ids = sorted({i for i, _, _ in rows})
        is_open: set[int] = set()
        known: set[tuple[int, int]] = set()
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            is_open |= set(
                session.scalars(
                    select(SearchRow.id).where(SearchRow.id.in_(part), SearchRow.status.in_(OPEN))
                )
            )
            places = session.execute(
                select(JournalRow.search_id, JournalRow.seq).where(JournalRow.search_id.in_(part))
            )
            known |= {(i, n) for i, n in places}
        missing = [row for row in rows if row[0] in is_open and row[:2] not in known]
        if missing:
            add_journal(session, missing)
        return len(missing)

    def set_aside(self) -> Path | None:
        """Rename a spool that is not this holder's to read; where to, None if it is.

        Its searches are done anew as far as their journals do not go.
        """
        if not self.path.is_file():
            return None
        with self._open() as connection:
            holders = connection.execute("SELECT run, fence FROM holders").fetchall()
        known = (self.holder.fence, self.holder.fence - 1)
        if all(run == self.holder.run and fence in known for run, fence in holders):
            return None
        aside = self.path.with_name(f"{self.path.name}.other-{uuid.uuid4().hex[:8]}")
        self.path.rename(aside)
        self.clear()
        return aside

    def clear(self) -> None:
        """Forget all entries: the store has them."""
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path)
        except (sqlite3.Error, OSError) as error:
            raise _unreadable(self.path, error) from error
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE IF NOT EXISTS holders (run TEXT, fence INTEGER)")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entries (search_id INTEGER, seq INTEGER, entry TEXT, "
                "UNIQUE (search_id, seq))"
            )
            yield connection
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error
        finally:
            connection.close()


def _unreadable(path: Path, error: Exception) -> ResourceError:
    return ResourceError(
        f"the spool {path} cannot be used: {error}",
        "free some space; if the file is damaged, move it away: its searches are then done anew",
    )
