"""Engines, pragmas, and the store's version: opening SQLite or PostgreSQL so that both behave."""

import contextlib
import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session as Session

from search.errors import (
    NotFoundError,
    ResourceError,
    StoreAwayError,
    StoreError,
    UsageError,
)

RETRY_S = 0.5
BUSY_S = 30.0
"""How long SQLite waits for another process's lock."""

_PROCESS_LOCK = threading.Lock()


def now_us() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


class Store:
    """An opened store. `session()` is one transaction; a lock serialises this process's writers."""

    def __init__(self, url: str, must_exist: bool = False) -> None:
        self.url = url
        self.engine = _engine(url, must_exist)
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
        with (
            self._lock,
            _mapped_errors(self.url),
            Session(self.engine, expire_on_commit=False) as s,
            s.begin(),
        ):
            yield s

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
    """Open a store, creating the tables of an empty one.

    Raises StoreError for another version, StoreAwayError when it does not answer for `patience_s`.
    """
    store = Store(url, must_exist)
    store.wait(patience_s)
    with _mapped_errors(url):
        if not _is_current(store.engine):
            with _PROCESS_LOCK, _file_lock(store.engine):
                _check_version(store.engine, url)
    return store


def parse_url(url: str) -> URL:
    """SQLAlchemy's URL. Raises UsageError for a text that is none."""
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise UsageError(
            f"store URL {url!r} cannot be read",
            "write sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE",
        ) from error


def sqlite_path(url: str) -> Path | None:
    """File of a SQLite URL; None for another database."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


_BOUNDS = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
"""A host that has gone silent counts as away after some 15 s."""


def check_url(url: str) -> URL:
    """Raises UsageError for a URL that no store can have; nothing is opened."""
    parsed = parse_url(url)
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise UsageError(
            f"store URL {url!r} names {backend!r}, which is not supported",
            "use sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE",
        )
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError(
            f"store URL {url!r} names no file", "write sqlite:///PATH or sqlite:////FULL/PATH"
        )
    return parsed


def _engine(url: str, must_exist: bool) -> Engine:
    parsed = check_url(url)
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        try:
            return create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                pool_recycle=600,
                connect_args=_BOUNDS,
            )
        except ModuleNotFoundError as error:
            raise UsageError(
                "PostgreSQL needs the psycopg driver", "pip install -e '.[postgres]'"
            ) from error
    path = sqlite_path(url)
    if path is not None:
        if must_exist and not (path.is_file() and path.stat().st_size):
            raise NotFoundError(
                f"there is no store at {path}", "run `ratchet improve` first, or give --store"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"cannot create {path.parent}: {error}", "choose another --store"
            ) from error
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


@contextlib.contextmanager
def _mapped_errors(url: str) -> Iterator[None]:
    """The database's failures in our words."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        cause = str(error.orig)
        if "full" in cause or "No space left" in cause:
            raise ResourceError(
                f"the disk of the store {url} is full; what was committed before is kept",
                "free some space and run the same command again",
            ) from error
        # SQLite says the same of a lock and of a mistake; a server's mistakes are other errors.
        is_sqlite = isinstance(error.orig, sqlite3.Error)
        kind = StoreError if is_sqlite and "locked" not in cause else StoreAwayError
        raise kind(
            f"the store {url} does not answer: {cause.splitlines()[0]}",
            "check the path or the server, then run the same command again",
        ) from error
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", error)).splitlines()[0]
        raise StoreError(
            f"the store {url} refused a statement: {cause}", "see `ratchet doctor`"
        ) from error


@contextlib.contextmanager
def _file_lock(engine: Engine) -> Iterator[None]:
    """Only one process creates tables: flock beside a SQLite file, or an advisory lock."""
    path = sqlite_path(str(engine.url))
    if path is not None:
        try:
            handle = open(f"{path}.lock", "w")  # noqa: SIM115
        except OSError as error:
            raise ResourceError(
                f"cannot write beside {path}: {error}", "choose another --store"
            ) from error
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


def _check_version(engine: Engine, url: str) -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        is_empty = not inspect(connection).get_table_names()
    if current == head:
        return
    if current is None and is_empty:
        command.upgrade(alembic_config(engine), "head")
        return
    if current is None:
        raise StoreError(f"{url} is a database, but not one of Ratchet's", "give another --store")
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
    """Bring an older store up to date."""
    store = Store(url, must_exist=True)
    with _mapped_errors(url), _PROCESS_LOCK, _file_lock(store.engine):
        command.upgrade(alembic_config(store.engine), "head")
    store.close()
