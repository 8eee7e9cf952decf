"""The large tables of PostgreSQL, kept in one partition a round.

The searches of a round are planned together, so their numbers are one range: a search's rows are
found in one partition by `search_id` alone, and what a round left can be vacuumed or dropped by
itself. They refer to their search without a foreign key: to look it up for every row takes a third
of the time of writing, and `ratchet store check` finds rows that have none. SQLite, made for one
host and fewer rounds, keeps each table whole, and its keys.
"""

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from store.schema import CriticScore, NodeRow, NodeText, SearchRow, SimulationRow

PARTITIONED = tuple(t.__tablename__ for t in (NodeRow, NodeText, CriticScore, SimulationRow))
"""In the order in which a search's rows are written, so that nobody waits in a circle."""


def is_partition(table: str) -> bool:
    """Whether a name of the database is that of a partition, not of a table of the schema."""
    return table.startswith(
        tuple(f"{name}_{kind}" for name in PARTITIONED for kind in ("r_", "default"))
    )


def lock_planning(session: Session) -> None:
    """Let one round be planned at a time, before its searches are written; nothing on SQLite.

    The lock is the one that new partitions will need: taken first, it is waited for empty-handed.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE searches IN SHARE ROW EXCLUSIVE MODE"))


def add_partitions(session: Session, round_id: int) -> None:
    """Partitions for the searches of a round that was just planned; nothing on SQLite."""
    if session.get_bind().dialect.name != "postgresql":
        return
    first, last = session.execute(
        select(func.min(SearchRow.id), func.max(SearchRow.id)).where(SearchRow.round_id == round_id)
    ).one()
    if first is None:
        return
    for table in PARTITIONED:
        session.execute(
            text(
                f"CREATE TABLE {table}_r_{int(round_id)} PARTITION OF {table} "
                f"FOR VALUES FROM ({int(first)}) TO ({int(last) + 1})"
            )
        )
