"""Where a store lies: which SQLAlchemy URLs are taken."""

from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from search.errors import UsageError
from store.masking import masked, remember

FORMS = "sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE"
DRIVERS = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
SERVER_KEYS = (
    *("host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl"),
    *("channel_binding", "gssencmode", "krbsrvname", "target_session_attrs", "application_name"),
    *("options", "passfile", "service", "connect_timeout", "load_balance_hosts"),
)
"""What a PostgreSQL URL may have behind its question mark, as libpq names it."""


def parse_url(url: str) -> URL:
    """SQLAlchemy's URL. Raises UsageError for a text that is none; it shows no password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"store URL {masked(url)!r} cannot be read", f"write {FORMS}") from None
    if parsed.password is not None:
        remember(str(parsed.password))
    return parsed


def sqlite_path(url: str) -> Path | None:
    """File of a SQLite URL; None for another database."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    return Path(parsed.database)


def check_url(url: str) -> URL:
    """Raises UsageError for a URL that no store can have; nothing is opened."""
    parsed, shown = parse_url(url), masked(url)
    if parsed.drivername not in DRIVERS:
        raise UsageError(
            f"store URL {shown!r} names {parsed.drivername!r}, which is not supported",
            f"use {FORMS}",
        )
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite and parsed.database in (None, "", ":memory:"):
        raise UsageError(
            f"store URL {shown!r} names no file", "write sqlite:///PATH or sqlite:////FULL/PATH"
        )
    unknown = [key for key in parsed.query if is_sqlite or key not in SERVER_KEYS]
    if unknown:
        raise UsageError(
            f"store URL {shown!r} has the key {unknown[0]!r}, which is not known",
            "leave out what stands behind the question mark"
            if is_sqlite
            else f"use only {', '.join(SERVER_KEYS)}; a password stands before the host, in "
            "PGPASSWORD or in a passfile",
        )
    return parsed
