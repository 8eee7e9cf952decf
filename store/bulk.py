"""Many narrow rows at once: COPY on PostgreSQL, one prepared insert on SQLite; same transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from store.schema import Base


def insert_rows(
    session: Session, table: type[Base], columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Rows as tuples of these plain columns (numbers and text, no JSON)."""
    if not rows:
        return
    connection = session.connection()
    listed = ", ".join(columns)
    if connection.dialect.name != "postgresql":
        marks = ", ".join("?" * len(columns))
        # Names of columns, no data: SQLAlchemy would bind row by row.
        connection.exec_driver_sql(
            f"INSERT INTO {table.__tablename__} ({listed}) VALUES ({marks})", list(rows)
        )
        return
    import psycopg

    cursor = connection.connection.cursor()
    try:
        with cursor.copy(f"COPY {table.__tablename__} ({listed}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        # As SQLAlchemy reports it of other statements.
        raise OperationalError("COPY", None, error) from error
    finally:
        cursor.close()
