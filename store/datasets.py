"""Frozen training sets: a list of trajectory ids, the rule that chose them, and a digest."""

import hashlib
from dataclasses import asdict, dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from store.recording import unpack_tokens
from store.schema import DatasetItem, DatasetRow, Round, SearchRow, TrajectoryRow


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """Which trajectories a round may learn from."""

    min_outcome: float = 0.5
    """Gamma: least outcome score; a trajectory without a score is not taken."""
    must_be_sound: bool = True
    """Take only what the task's tool found sound, where the tool has something to say."""
    must_answer: bool = True
    """Drop texts that end without an answer."""
    min_confidence: float = 0.0
    """Least share of the candidates' weight behind the answer."""


@dataclass(frozen=True, slots=True)
class StoredText:
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]


def freeze_dataset(session: Session, round_row: Round, rule: SelectionRule) -> DatasetRow:
    """Choose the round's trajectories once and for all: the best one a problem, in order."""
    rows = session.execute(
        select(TrajectoryRow.id, TrajectoryRow.sha, TrajectoryRow.outcome, TrajectoryRow.is_sound,
            TrajectoryRow.answer,
               SearchRow.confidence)
        .join(SearchRow, SearchRow.id == TrajectoryRow.search_id)
        .where(SearchRow.round_id == round_row.id, TrajectoryRow.is_chosen.is_(True))
        .order_by(SearchRow.position)
    ).all()  # fmt: skip
    chosen = [
        (row.id, row.sha)
        for row in rows
        if row.outcome is not None
        and row.outcome >= rule.min_outcome
        and (row.is_sound is not False or not rule.must_be_sound)
        and (row.answer is not None or not rule.must_answer)
        and (row.confidence or 0.0) >= rule.min_confidence
    ]
    digest = hashlib.sha256("\n".join(sha for _, sha in chosen).encode()).hexdigest()
    dataset = DatasetRow(
        round_id=round_row.id, rule=asdict(rule), num_items=len(chosen), sha=digest
    )
    session.add(dataset)
    session.flush()
    if chosen:
        session.execute(
            insert(DatasetItem),
            [{"dataset_id": dataset.id, "position": i, "trajectory_id": t}
             for i, (t, _) in enumerate(chosen)],
        )  # fmt: skip
    return dataset


def dataset_of(session: Session, round_id: int) -> DatasetRow | None:
    return session.scalars(select(DatasetRow).where(DatasetRow.round_id == round_id)).one_or_none()


def read_dataset(session: Session, dataset_id: int) -> list[StoredText]:
    rows = session.execute(
        select(TrajectoryRow.prompt_tokens, TrajectoryRow.tokens)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .where(DatasetItem.dataset_id == dataset_id)
        .order_by(DatasetItem.position)
    )
    return [StoredText(unpack_tokens(p), unpack_tokens(t)) for p, t in rows]


def earlier_datasets(session: Session, run_id: int, before_round: int) -> list[StoredText]:
    """Everything that earlier rounds of the run learned from, oldest first."""
    ids = session.scalars(
        select(DatasetRow.id)
        .join(Round, Round.id == DatasetRow.round_id)
        .where(Round.run_id == run_id, Round.number < before_round)
        .order_by(Round.number)
    ).all()
    return [text for i in ids for text in read_dataset(session, i)]
