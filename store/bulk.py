"""Many narrow rows at once: COPY on PostgreSQL, one prepared insert on SQLite; same transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from store.schema import Base


def insert_rows(session: Session, table: type[Base], rows: Sequence[dict[str, Any]]) -> None:
    """Rows that all have the same plain columns (numbers and text, no JSON)."""
    if not rows:
        return
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        connection.execute(insert(table), list(rows))
        return
    names = list(rows[0])
    cursor = connection.connection.cursor()
    try:
        listed = ", ".join(names)
        with cursor.copy(f"COPY {table.__tablename__} ({listed}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row([row[name] for name in names])
    finally:
        cursor.close()
