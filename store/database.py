"""Engines, pragmas, and the store's version: opening SQLite or PostgreSQL so that both behave."""

import contextlib
import fcntl
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session as Session

from search.errors import (
    NotFoundError,
    ResourceError,
    StoreAwayError,
    StoreError,
    UsageError,
)
from store.address import check_url, sqlite_path
from store.disks import free_bytes, unwritable
from store.masking import masked

RETRY_S = 0.5
BUSY_S = 30.0
"""How long SQLite waits for another process's lock."""

_PROCESS_LOCK = threading.Lock()


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class Store:
    """An opened store. `session()` is one transaction; a lock serialises this process's writers."""

    def __init__(self, url: str, must_exist: bool = False, is_read: bool = False) -> None:
        self.url = url
        self.is_read = is_read
        """Whether it was opened to be read only; nothing of it or beside it changes then."""
        self.engine = _engine(url, must_exist, is_read)
        self.patience_s = 0.0
        """How long a transaction waits to begin while the database does not answer."""
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def session(self, patience_s: float | None = None) -> Iterator[Session]:
        """One transaction: committed on leaving, rolled back on an error.

        Raises StoreAwayError when the database does not answer for `patience_s` (the store's own
        by default), or stops answering before the end; then nothing was written.
        """
        self.wait(patience_s)
        before = self._seen()
        with (
            self._lock,
            _mapped_errors(self.url),
            Session(self.engine, expire_on_commit=False) as s,
            s.begin(),
        ):
            yield s
        if self._seen() != before:
            raise StoreAwayError(
                f"the store {self.shown} was written to while it was read",
                "run the same command again",
            )

    @property
    def shown(self) -> str:
        """Its URL without a password."""
        return masked(self.url)

    def _seen(self) -> tuple[int, int] | None:
        """What changes when another process writes to a file that is being read."""
        path = sqlite_path(self.url) if self.is_read else None
        if path is None or reading_uri(path).endswith("mode=ro"):
            return None  # SQLite itself sees to it
        found = path.stat()
        return found.st_size, found.st_mtime_ns

    def wait(self, patience_s: float | None = None) -> None:
        """Return as soon as the database answers, or when patience ends: what is done next says
        what is wrong.
        """
        began = time.monotonic()
        # Looked at anew each time: who stops the program ends all waiting by setting it to 0.
        while (
            time.monotonic() - began < (self.patience_s if patience_s is None else patience_s)
            and not self._answers()
        ):
            time.sleep(RETRY_S)

    def _answers(self) -> bool:
        """Whether a server takes a connection."""
        if self.engine.dialect.name == "sqlite":
            return True  # a file answers, or its lock is waited for by SQLite itself
        try:
            with _mapped_errors(self.url), self.engine.connect():
                return True
        except StoreAwayError:
            return False

    def close(self) -> None:
        self.engine.dispose()


def open_store(url: str, must_exist: bool = False, patience_s: float = 0.0) -> Store:
    """Open a store to work with, creating the tables of an empty one.

    Raises StoreError for another version or a database of somebody else's, of which nothing is
    changed, and StoreAwayError when it does not answer for `patience_s`.
    """
    _refuse_foreign(url)
    store = Store(url, must_exist)
    store.wait(patience_s)
    with _mapped_errors(url):
        if not _is_current(store.engine):
            with _PROCESS_LOCK, _file_lock(store):
                _check_version(store.engine, url)
    return store


def _refuse_foreign(url: str) -> None:
    """Raises StoreError for a SQLite file that is not ours: opening it to write would change it."""
    path = sqlite_path(url)
    if path is None or not _has_bytes(path):
        return
    try:
        with contextlib.closing(_reading(path)) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    except sqlite3.DatabaseError as error:
        if "not a database" not in str(error):
            return  # another process is just creating it
        raise StoreError(f"{path} is a file, but no database", "give another --store") from error
    if names and "alembic_version" not in names:
        raise _foreign(url)


def _foreign(url: str) -> StoreError:
    return StoreError(
        f"{masked(url)} is a database, but not one of Ratchet's", "give another --store"
    )


def read_store(url: str, patience_s: float = 0.0) -> Store:
    """Open a store to look at. Raises NotFoundError, StoreError and StoreAwayError as above."""
    store = Store(url, must_exist=True, is_read=True)
    store.wait(patience_s)
    with _mapped_errors(url):
        if not _is_current(store.engine):
            _check_version(store.engine, url, may_create=False)
    return store


_BOUNDS = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
"""A host that has gone silent counts as away after some 15 s."""


def _engine(url: str, must_exist: bool, is_read: bool) -> Engine:
    parsed = check_url(url)
    if parsed.get_backend_name() == "postgresql":
        return _server(parsed, is_read)
    path = sqlite_path(url)
    assert path is not None
    if must_exist and not _has_bytes(path):
        raise NotFoundError(
            f"there is no store at {path}", "run `ratchet improve` first, or give --store"
        )
    if is_read:
        return create_engine(parsed, creator=lambda: _reading(path), poolclass=NullPool)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, "the store", error, "--store") from error
    engine = create_engine(parsed, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: sqlite3.Connection, _: object) -> None:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={int(1000 * BUSY_S)}",
            "journal_size_limit=134217728",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _server(parsed: URL, is_read: bool) -> Engine:
    try:
        engine = create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_recycle=600,
            connect_args=_BOUNDS,
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            "PostgreSQL needs the psycopg driver", "pip install -e '.[postgres]'"
        ) from error
    if is_read:

        @event.listens_for(engine, "connect")
        def _only_reads(connection: Any, _: object) -> None:
            connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()

    return engine


def _has_bytes(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except (OSError, ValueError) as error:
        raise ResourceError(f"cannot look at {path}: {error}", "choose another --store") from error


def reading_uri(path: Path) -> str:
    """SQLite's URI of a file that is read without a byte beside it changing.

    Where no log lies beside it nobody is writing, and the file is read as it is: SQLite would
    otherwise leave an empty log and its index there. With a log it is read through that.
    """
    log = path.with_name(path.name + "-wal")
    is_written = log.is_file() and log.stat().st_size > 0
    return f"{path.absolute().as_uri()}?{'mode=ro' if is_written else 'immutable=1'}"


def _reading(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        reading_uri(path), uri=True, timeout=BUSY_S, check_same_thread=False
    )
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextlib.contextmanager
def _mapped_errors(url: str) -> Iterator[None]:
    """The database's failures in our words."""
    shown = masked(url)
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        cause = str(error.orig)
        if "full" in cause or "No space left" in cause:
            path = sqlite_path(url)
            free = f" ({free_bytes(path):,} bytes are free)" if path else ""
            raise ResourceError(
                f"the disk of the store {shown} is full{free}; what was committed before is kept",
                "free some space and run the same command again",
            ) from error
        if any(word in cause for word in ("readonly", "read-only", "unable to open")):
            raise ResourceError(
                f"the store {shown} cannot be written: {_first_line(cause)}",
                "change the permissions of its folder, or choose another --store",
            ) from error
        # SQLite says the same of a lock and of a mistake; a server's mistakes are other errors.
        is_sqlite = isinstance(error.orig, sqlite3.Error)
        kind = StoreError if is_sqlite and "locked" not in cause else StoreAwayError
        raise kind(
            f"the store {shown} does not answer: {_first_line(cause)}",
            "check the path or the server, then run the same command again",
        ) from error
    except json.JSONDecodeError as error:
        raise StoreError(
            f"the store {shown} is damaged: a value in it is no JSON: {error}",
            "restore it from a copy; `ratchet store check` says what else is wrong",
        ) from error
    except UnicodeError as error:  # of a host's name, or of a text that is none
        raise StoreError(
            f"the store {shown[:200]} cannot be asked: {_first_line(str(error))}",
            "check the URL's host and database, and that all texts are UTF-8",
        ) from error
    except SQLAlchemyError as error:
        cause = _first_line(str(getattr(error, "orig", error)))
        raise StoreError(
            f"the store {shown} refused a statement: {cause}", "see `ratchet doctor`"
        ) from error


def _first_line(cause: str) -> str:
    return masked(next(iter(cause.splitlines()), ""))


@contextlib.contextmanager
def _file_lock(store: Store) -> Iterator[None]:
    """Only one process creates tables: flock beside a SQLite file, or an advisory lock."""
    engine, path = store.engine, sqlite_path(store.url)
    if path is not None:
        try:
            handle = open(f"{path}.lock", "w")  # noqa: SIM115
        except OSError as error:
            raise unwritable(path, "the store's lock", error, "--store") from error
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        return
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(7241989)"))
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(7241989)"))
            connection.commit()


def alembic_config(engine: Engine | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    if engine is not None:
        config.attributes["engine"] = engine
    return config


def _is_current(engine: Engine) -> bool:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() == head


def _check_version(engine: Engine, url: str, may_create: bool = True) -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        is_empty = not inspect(connection).get_table_names()
    if current == head:
        return
    url = masked(url)
    if current is None and is_empty and not may_create:
        raise NotFoundError(
            f"the store {url} has no tables yet", "run `ratchet improve` or `ratchet store init`"
        )
    if current is None and is_empty:
        command.upgrade(alembic_config(engine), "head")
        return
    if current is None:
        raise _foreign(url)
    known = {script.revision for script in scripts.walk_revisions()}
    if current in known:
        raise StoreError(
            f"the store {url} has version {current}, this program needs {head}",
            f"back it up, then run: ratchet store migrate --store {url}",
        )
    raise StoreError(
        f"the store {url} has version {current}, newer than this program's {head}",
        "update Ratchet",
    )


def migrate(url: str) -> None:
    """Bring an older store up to date. Raises StoreError for a database of somebody else's."""
    check_url(url)
    _refuse_foreign(url)
    store = Store(url, must_exist=True)
    with _mapped_errors(url), _PROCESS_LOCK, _file_lock(store):
        command.upgrade(alembic_config(store.engine), "head")
    store.close()
