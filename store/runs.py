"""The rows of runs: found by name, and made once however many processes open them at once."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.database import now_us
from store.schema import Run


def find_run(session: Session, name: str) -> Run | None:
    return session.scalars(select(Run).where(Run.name == name)).one_or_none()


def all_runs(session: Session) -> list[Run]:
    """Oldest first."""
    return list(session.scalars(select(Run).order_by(Run.id)))


def create_run(session: Session, name: str, **values: Any) -> int:
    """Id of the run of this name, made with `values` unless it is there.

    Two processes may open the first run at once: one row results.
    """
    dialect = session.get_bind().dialect.name
    insert_into = sqlite.insert if dialect == "sqlite" else postgresql.insert
    empty: dict[str, Any] = {"fence": 0, "owner": "", "lease_until_ts": 0}
    session.execute(
        insert_into(Run)
        .values(name=name, created_ts=now_us(), **empty, **values)
        .on_conflict_do_nothing()
    )
    return session.scalars(select(Run.id).where(Run.name == name)).one()
