"""Searches that a service was asked for: runs of their own, a round for each set of models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.orm import Session

from search.mcts import Search
from search.state import Problem
from store.database import now_us
from store.recording import Claim, IsCorrect, add_problems, as_problem, end_search
from store.rounds import NewRound, end_round, open_round, start_round
from store.schema import (
    CriticScore,
    NodeRow,
    NodeText,
    ProblemRow,
    Round,
    SearchRow,
    SimulationRow,
    TrajectoryRow,
)
from store.states import SearchStatus, Stage


@dataclass(frozen=True, slots=True)
class Served:
    """A search that has ended, and who asked for it."""

    request_id: str
    asked_by: str
    """Name of a key."""
    problem: Problem
    search: Search
    policy_version: str


def open_served_round(
    session: Session, run_id: int, models: Mapping[str, str], settings: Mapping[str, Any]
) -> Round:
    """The run's open round if it is of these models; else that one ends, and another begins."""
    row = open_round(session, run_id)
    if row is not None and row.models == dict(models):
        return row
    if row is not None:
        close_served_round(session, row)
    new = NewRound(models, dict(settings.get("search", {})), "", settings)
    row = start_round(session, run_id, new)
    row.stage = Stage.SEARCHING
    return row


def close_served_round(session: Session, row: Round) -> None:
    """A service learns nothing: the policy stays."""
    end_round(session, row, Stage.KEPT, {"decision": "kept", "reason": "served, not trained"})


def add_served(
    session: Session, task: str, round_id: int, fence: int, served: Served, is_correct: IsCorrect
) -> int:
    """Write an ended search with its tree, in the transaction of the caller; its number.

    A request that was written before is left as it is.
    """
    known = session.scalars(
        select(SearchRow.id).where(SearchRow.request_id == served.request_id)
    ).one_or_none()
    if known is not None:
        return known
    (problem,) = add_problems(session, task, [served.problem], round_id)
    last = session.scalar(
        select(func.max(SearchRow.position)).where(SearchRow.round_id == round_id)
    )
    position = 0 if last is None else int(last) + 1
    row = SearchRow(
        round_id=round_id,
        problem_id=problem.id,
        position=position,
        seed=served.search.seed,
        status=SearchStatus.RUNNING,
        fence=fence,
        request_id=served.request_id,
        asked_by=served.asked_by,
    )
    session.add(row)
    session.flush()
    end_search(session, Claim(row.id, fence, served.policy_version), served.search, is_correct)
    session.execute(update(Round).where(Round.id == round_id).values(num_problems=position + 1))
    return row.id


def served_problems(session: Session, task: str) -> list[Problem]:
    """What services were asked of a task, each question once, in order."""
    rows = session.scalars(
        select(ProblemRow)
        .where(
            ProblemRow.task == task,
            ProblemRow.id.in_(
                select(SearchRow.problem_id).where(SearchRow.request_id.is_not(None))
            ),
        )
        .order_by(ProblemRow.id)
    )
    return [as_problem(row) for row in rows]


def find_served(session: Session, request_id: str) -> SearchRow | None:
    return session.scalars(
        select(SearchRow).where(SearchRow.request_id == request_id)
    ).one_or_none()


def served_simulations(
    session: Session, search_id: int, after: int, most: int = 1000
) -> list[SimulationRow]:
    """The log of an ended search from a place on, in order."""
    return list(
        session.scalars(
            select(SimulationRow)
            .where(SimulationRow.search_id == search_id, SimulationRow.seq > after)
            .order_by(SimulationRow.seq)
            .limit(most)
        )
    )


def drop_served(session: Session, run_id: int, before_us: int, most: int = 200) -> int:
    """Remove the run's oldest searches that ended before a time, `most` at a time; how many."""
    ids = list(
        session.scalars(
            select(SearchRow.id)
            .join(Round, Round.id == SearchRow.round_id)
            .where(
                Round.run_id == run_id,
                SearchRow.request_id.is_not(None),
                SearchRow.ended_ts < before_us,
            )
            .order_by(SearchRow.id)
            .limit(most)
        )
    )
    if session.get_bind().dialect.name == "postgresql":
        # In the order in which a round is planned, so that nobody waits in a circle.
        session.execute(text("LOCK TABLE searches IN ROW EXCLUSIVE MODE"))
    problems = set(session.scalars(select(SearchRow.problem_id).where(SearchRow.id.in_(ids))))
    for table in (NodeRow, NodeText, CriticScore, SimulationRow, TrajectoryRow):
        session.execute(delete(table).where(table.search_id.in_(ids)))
    session.execute(delete(SearchRow).where(SearchRow.id.in_(ids)))
    # Questions that no round made and nobody else searched go, too.
    session.execute(
        delete(ProblemRow).where(
            ProblemRow.id.in_(problems),
            ProblemRow.round_id.in_(select(Round.id).where(Round.run_id == run_id)),
            ProblemRow.id.not_in(select(SearchRow.problem_id)),
        )
    )
    return len(ids)


def cutoff_us(days: float) -> int:
    """The time so many days ago, in microseconds."""
    return now_us() - int(days * 86_400_000_000)
