"""Runs, rounds, searches and checkpoints by the names people give; an unknown one is told so."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.errors import NotFoundError
from store.schema import CheckpointRow, Round, Run, SearchRow

DEFAULT_RUN = "default"


def chosen_run(session: Session, name: str, is_given: bool) -> str:
    """The run that is meant: the only one of a store need not be named.

    `is_given` says that somebody named it, be it by the default name.
    """
    runs = session.scalars(select(Run).order_by(Run.id)).all()
    names = [run.name for run in runs if not is_served(run)]
    return names[0] if not is_given and len(names) == 1 else name


def is_served(run: Run) -> bool:
    """Whether the run holds the searches of a service, and has no rounds that learn."""
    return "serves" in run.config


def run_named(session: Session, name: str) -> Run:
    """Raises NotFoundError that names the runs there are."""
    found = session.scalars(select(Run).where(Run.name == name)).one_or_none()
    if found is None:
        names = session.scalars(select(Run.name).order_by(Run.id)).all()
        raise NotFoundError(
            f"there is no run {name!r} in this store",
            f"name one of: {', '.join(names)}" if names else "run `ratchet improve` first",
        )
    return found


def check_round(session: Session, run: str, number: int | None) -> None:
    """Raises NotFoundError where the run, or its round of this number, is not there."""
    run_id = run_named(session, run).id
    if number is None:
        return
    numbers = session.scalars(
        select(Round.number).where(Round.run_id == run_id).order_by(Round.number)
    ).all()
    if number not in numbers:
        has = f"rounds {numbers[0]} to {numbers[-1]}" if numbers else "no round yet"
        raise NotFoundError(f"run {run!r} has no round {number}", f"it has {has}")


def check_names(session: Session, given: dict[str, Any]) -> None:
    """Raises NotFoundError for the first of run, round, search and checkpoint that is not there."""
    if given.get("run") is not None:
        check_round(session, str(given["run"]), given.get("round"))
    search = given.get("search")
    if search is not None and session.get(SearchRow, search) is None:
        raise NotFoundError(f"there is no search {search}", "see `ratchet inspect searches`")
    version = given.get("checkpoint")
    if version is not None and not session.scalar(
        select(CheckpointRow.id).where(CheckpointRow.version == version)
    ):
        raise NotFoundError(f"there is no checkpoint {version!r}", "see `ratchet models`")
