"""Frozen training sets: a list of trajectory ids, the rule that chose them, and a digest."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from store.recording import add_event, unpack_tokens
from store.schema import (
    DatasetItem,
    DatasetRow,
    Event,
    ProblemRow,
    Round,
    SearchRow,
    TrajectoryRow,
)
from store.selection import Selection, SelectionRule, read_finds
from store.states import PROBE, EventKind


@dataclass(frozen=True, slots=True)
class StoredText:
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    problem: str = ""
    steps: tuple[str, ...] = ()
    """In words."""


def freeze_dataset(
    session: Session,
    round_row: Round,
    rule: SelectionRule,
    selection: Selection | None = None,
    report: Mapping[str, Any] | None = None,
) -> DatasetRow:
    """Choose the round's trajectories once and for all, with what each was chosen by.

    `selection` is what the rule came to, where it was asked before: judging may take long, and a
    transaction should not. Why searches gave nothing is written down as an event, with whatever
    else `report` says.
    """
    selection = selection or rule.select(read_finds(session, round_row.id))
    chosen = selection.kept
    digest = hashlib.sha256("\n".join(c.find.sha for c in chosen).encode()).hexdigest()
    dataset = DatasetRow(
        round_id=round_row.id, rule=asdict(rule), num_items=len(chosen), sha=digest
    )
    session.add(dataset)
    session.flush()
    if chosen:
        session.execute(
            insert(DatasetItem),
            [
                {
                    "dataset_id": dataset.id,
                    "position": i,
                    "trajectory_id": c.find.id,
                    "scores": c.scores,
                }
                for i, c in enumerate(chosen)
            ],
        )
    num_searches = int(
        session.scalar(
            select(func.count(SearchRow.ended_ts))
            .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
            .where(SearchRow.round_id == round_row.id, ProblemRow.origin != PROBE)
        )
        or 0
    )
    refused = dict(selection.refused.most_common())
    given = len({c.find.search_id for c in chosen}) + sum(refused.values())
    if num_searches > given:
        refused["no finished text"] = num_searches - given
    payload = {"kept": len(chosen), "searches": num_searches, "refused": refused}
    payload |= report or {}
    add_event(session, round_row.run_id, EventKind.SELECTED, payload, round_row.id)
    return dataset


def selected_report(session: Session, round_id: int) -> dict[str, Any]:
    """What the round's choice came to: texts kept, searches, and why searches gave nothing."""
    found = session.scalars(
        select(Event.payload).where(Event.round_id == round_id, Event.kind == EventKind.SELECTED)
    ).first()
    return found or {}


def selected_before(session: Session, run_id: int, number: int) -> dict[str, Any]:
    """What the last round of a run that chose came to, before round `number`; empty without one."""
    found = session.scalars(
        select(Event.payload)
        .join(Round, Round.id == Event.round_id)
        .where(Round.run_id == run_id, Round.number < number, Event.kind == EventKind.SELECTED)
        .order_by(Round.number.desc())
    ).first()
    return found or {}


def dataset_of(session: Session, round_id: int) -> DatasetRow | None:
    return session.scalars(select(DatasetRow).where(DatasetRow.round_id == round_id)).one_or_none()


def read_dataset(session: Session, dataset_id: int) -> list[StoredText]:
    rows = session.execute(
        select(
            TrajectoryRow.prompt_tokens,
            TrajectoryRow.tokens,
            ProblemRow.text,
            TrajectoryRow.steps,
        )
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .join(ProblemRow, ProblemRow.id == TrajectoryRow.problem_id)
        .where(DatasetItem.dataset_id == dataset_id)
        .order_by(DatasetItem.position)
    )
    return [
        StoredText(
            unpack_tokens(prompt),
            unpack_tokens(tokens),
            problem,
            tuple(step["text"] for step in steps["steps"]),
        )
        for prompt, tokens, problem, steps in rows
    ]


def stored_states(session: Session, dataset_id: int) -> list[tuple[tuple[int, ...], int, int]]:
    """Every beginning of every trajectory of a dataset, with the length of its prompt and the
    trajectory's number among them."""
    rows = session.execute(
        select(TrajectoryRow.prompt_tokens, TrajectoryRow.tokens, TrajectoryRow.steps)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .where(DatasetItem.dataset_id == dataset_id)
        .order_by(DatasetItem.position)
    )
    found: list[tuple[tuple[int, ...], int, int]] = []
    for number, (prompt_raw, raw, steps) in enumerate(rows):
        prompt, tokens = unpack_tokens(prompt_raw), unpack_tokens(raw)
        end = 0
        for step in steps["steps"]:
            found.append((prompt + tokens[:end], len(prompt), number))
            end += step["tokens"]
    return found


def earlier_datasets(session: Session, run_id: int, before_round: int) -> list[StoredText]:
    """Everything that earlier rounds of the run learned from, oldest first."""
    ids = session.scalars(
        select(DatasetRow.id)
        .join(Round, Round.id == DatasetRow.round_id)
        .where(Round.run_id == run_id, Round.number < before_round)
        .order_by(Round.number)
    ).all()
    return [text for i in ids for text in read_dataset(session, i)]
