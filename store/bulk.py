"""Many narrow rows at once: COPY on PostgreSQL, one prepared insert on SQLite; same transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store.schema import Base


def insert_rows(session: Session, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Rows that all have the same plain columns (numbers and text, no JSON)."""
    if not rows:
        return
    connection = session.connection()
    names = list(rows[0])
    listed = ", ".join(names)
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(names))
        connection.exec_driver_sql(  # names of columns, no data: SQLAlchemy binds row by row
            f"INSERT INTO {table.__tablename__} ({listed}) VALUES ({marks})",
            [tuple(row[name] for name in names) for row in rows],
        )
        return
    import psycopg

    cursor = connection.connection.cursor()
    try:
        with cursor.copy(f"COPY {table.__tablename__} ({listed}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])
    except (
        psycopg.OperationalError,
        psycopg.InterfaceError,
    ) as error:  # as SQLAlchemy reports it of other statements
        raise OperationalError("COPY", None, error) from error
    finally:
        cursor.close()
