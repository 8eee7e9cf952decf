"""The rows of rounds: their order, their stages, and the searches that belong to them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search.state import Problem
from store.database import now_us
from store.recording import add_event, as_problem, drop_journals
from store.schema import ActorRow, Event, ProblemRow, Round, Run, SearchRow
from store.states import ENDED, OPEN, EventKind, SearchStatus, Stage


@dataclass(frozen=True, slots=True)
class NewRound:
    """What is known of a round when it begins."""

    models: Mapping[str, str]
    """Role to version."""
    search_config: Mapping[str, Any]
    config_sha: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All of them."""


def rounds_of(session: Session, run_id: int) -> list[Round]:
    """All rounds of a run, newest first."""
    return list(
        session.scalars(select(Round).where(Round.run_id == run_id).order_by(Round.number.desc()))
    )


def rounds_of_run(session: Session, run: str) -> list[Round]:
    """All rounds of a run by its name, oldest first."""
    return list(
        session.scalars(
            select(Round)
            .join(Run, Run.id == Round.run_id)
            .where(Run.name == run)
            .order_by(Round.number)
        )
    )


def last_round(session: Session, run_id: int) -> Round | None:
    return next(iter(rounds_of(session, run_id)), None)


def open_round(session: Session, run_id: int) -> Round | None:
    """The run's unfinished round; None when all have ended."""
    return session.scalars(
        select(Round).where(Round.run_id == run_id, Round.stage.not_in(ENDED))
    ).first()


def start_round(session: Session, run_id: int, new: NewRound) -> Round:
    """The next round of a run, at its first stage."""
    last = session.scalar(select(func.max(Round.number)).where(Round.run_id == run_id))
    row = Round(
        run_id=run_id,
        number=int(last or 0) + 1,
        stage=Stage.IMAGINING,
        models=dict(new.models),
        search_config=dict(new.search_config),
        config_sha=new.config_sha,
        timings={},
        started_ts=now_us(),
    )
    session.add(row)
    session.flush()
    add_event(
        session,
        run_id,
        EventKind.ROUND_STARTED,
        {"number": row.number, "settings": dict(new.settings)},
        row.id,
    )
    return row


def round_settings(session: Session, round_id: int) -> dict[str, Any]:
    """What the round began with; empty for one of before 0.7."""
    found = session.scalars(
        select(Event.payload).where(
            Event.round_id == round_id, Event.kind == EventKind.ROUND_STARTED
        )
    ).first()
    return dict((found or {}).get("settings") or {})


def end_round(session: Session, row: Round, stage: Stage, verdict: Mapping[str, Any]) -> None:
    """Promoted or kept, with the verdict; a round that has ended stays as it is."""
    if row.stage in ENDED:
        return
    row.stage, row.verdict, row.ended_ts = stage, dict(verdict), now_us()
    add_event(session, row.run_id, EventKind(f"round-{stage}"), dict(verdict), row.id)


def fail_round(session: Session, row: Round, reason: str) -> None:
    """End a round that was not finished, and its open searches; what it found stays."""
    row.error = f"{reason} at {row.stage}"
    row.stage, row.ended_ts = Stage.FAILED, now_us()
    open_ones = select(SearchRow).where(
        SearchRow.round_id == row.id,
        SearchRow.status.in_(OPEN),
    )
    given_up = session.scalars(open_ones).all()
    for search in given_up:
        search.status, search.error = SearchStatus.FAILED, "the round was given up"
    drop_journals(session, [search.id for search in given_up])
    add_event(session, row.run_id, EventKind.ROUND_FAILED, {"reason": row.error}, row.id)


def note_time(row: Round, stage: str, seconds: float) -> None:
    """Add to the seconds spent in a stage, over all attempts."""
    row.timings = row.timings | {stage: row.timings.get(stage, 0.0) + round(seconds, 2)}


def at_work_of(session: Session, round_id: int) -> dict[str, dict[str, float]]:
    """By stage that ended, the share of its time in which each actor answered calls; of a stage
    that was taken up several times the last."""
    ended = session.scalars(
        select(Event)
        .where(Event.round_id == round_id, Event.kind == EventKind.STAGE_ENDED)
        .order_by(Event.id)
    )
    return {event.payload["stage"]: dict(event.payload["at_work"]) for event in ended}


def how_far(session: Session, run_id: int) -> tuple[int, str, int]:
    """(newest round, its stage, searches ended in all): larger or other when a run has got on."""
    last = last_round(session, run_id)
    ended = session.scalar(
        select(func.count(SearchRow.ended_ts))
        .join(Round, Round.id == SearchRow.round_id)
        .where(Round.run_id == run_id)
    )
    return (last.number if last else 0), (last.stage if last else ""), int(ended or 0)


def searched_problems(session: Session, run_id: int) -> list[Problem]:
    """Every problem that a round of the run searched, in that order."""
    rows = session.scalars(
        select(ProblemRow)
        .join(SearchRow, SearchRow.problem_id == ProblemRow.id)
        .join(Round, Round.id == SearchRow.round_id)
        .where(Round.run_id == run_id)
        .order_by(SearchRow.id)
    )
    return [as_problem(row) for row in rows]


def searches_of(session: Session, round_id: int) -> list[tuple[SearchRow, ProblemRow]]:
    """The searches of a round with their problems, by position."""
    rows = session.execute(
        select(SearchRow, ProblemRow)
        .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
        .where(SearchRow.round_id == round_id)
        .order_by(SearchRow.position)
    )
    return [(search, problem) for search, problem in rows]


def search_counts(session: Session, round_id: int) -> dict[str, int]:
    """How many searches of a round there are by status."""
    rows = session.execute(
        select(SearchRow.status, func.count())
        .where(SearchRow.round_id == round_id)
        .group_by(SearchRow.status)
    )
    return {status: int(num) for status, num in rows}


def actors_of(session: Session, run_id: int) -> list[ActorRow]:
    """Last known health of a run's actors, by role."""
    return list(
        session.scalars(select(ActorRow).where(ActorRow.run_id == run_id).order_by(ActorRow.role))
    )
