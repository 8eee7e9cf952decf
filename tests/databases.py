"""A new database on a PostgreSQL server, for tests and benchmarks."""

from sqlalchemy import create_engine, text


def new_database(server: str, name: str) -> str:
    """URL of an empty database of this name; `server` is the URL of any other one there."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    head, _, query = server.partition("?")
    return f"{head.rpartition('/')[0]}/{name}{'?' + query if query else ''}"
