"""Journal entries kept on this host while the store does not answer.

The answers that a search was told are the whole of its state (search.journal), so this is all that
must not be lost. A SQLite file of its own, bounded in size, read back in the order of writing.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.errors import ResourceError
from search.journal import Entry
from store.recording import add_journal
from store.schema import JournalRow, SearchRow

MAX_BYTES = 256 * 2**20


class Spool:
    """Entries by search and place. Opened again after a kill it is as it was."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
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
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as connection, connection:
                connection.executemany(
                    "INSERT OR IGNORE INTO entries VALUES (?, ?, ?)",
                    [(i, n, json.dumps(entry)) for i, n, entry in entries],
                )
        except (sqlite3.Error, OSError) as error:
            raise ResourceError(
                f"the store does not answer, and {self.path} cannot be written: {error}",
                "free some space and run the same command again",
            ) from error

    def drain(self, session: Session) -> int:
        """Write the entries of searches under way to their journals; how many were missing there.

        The caller commits, then calls `clear`; what was written before is not written twice.
        """
        if not self.path.is_file():
            return 0
        with self._open() as connection:
            found = connection.execute("SELECT search_id, seq, entry FROM entries ORDER BY rowid")
            rows = [(i, n, json.loads(entry)) for i, n, entry in found]
        ids = sorted({i for i, _, _ in rows})
        is_open: set[int] = set()
        known: set[tuple[int, int]] = set()
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            is_open |= set(
                session.scalars(
                    select(SearchRow.id).where(
                        SearchRow.id.in_(part), SearchRow.status.in_(("pending", "running"))
                    )
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

    def clear(self) -> None:
        """Forget all entries: the store has them."""
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entries (search_id INTEGER, seq INTEGER, entry TEXT, "
                "UNIQUE (search_id, seq))"
            )
            yield connection
        finally:
            connection.close()
