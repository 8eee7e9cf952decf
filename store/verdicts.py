"""What stored trees say of texts: which ones a round trusted, and which ones it contradicts."""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import eq

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.candidates import SameAnswer, is_among
from store.recording import unpack_tokens
from store.schema import DatasetItem, DatasetRow, Round, TrajectoryRow


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """A finished text of a search whose answer the round trusted."""

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    is_good: bool
    """Whether it was kept; the others end with another answer, or the tool refuted them."""
    step_tokens: tuple[int, ...]
    """Tokens of each step."""
    step_q: tuple[float | None, ...]
    """Q of each step in the tree, the visit-weighted mean of what came after it; None beyond it."""


def stored_verdicts(
    session: Session, dataset_id: int, same: SameAnswer = eq
) -> Iterator[StoredVerdict]:
    """The texts of every search that a frozen dataset took from, search by search.

    A text that was not kept and ends with the kept answer says nothing, and is left out.
    """
    kept = select(DatasetItem.trajectory_id).where(DatasetItem.dataset_id == dataset_id)
    searches = select(TrajectoryRow.search_id).where(TrajectoryRow.id.in_(kept))
    rows = session.scalars(
        select(TrajectoryRow)
        .where(TrajectoryRow.search_id.in_(searches))
        .order_by(TrajectoryRow.search_id, TrajectoryRow.id)
    )
    kept_ids = set(session.scalars(kept))
    group: list[TrajectoryRow] = []
    for row in rows.yield_per(500):
        if group and row.search_id != group[0].search_id:
            yield from _of_search(group, kept_ids, same)
            group = []
        group.append(row)
    yield from _of_search(group, kept_ids, same)


def _of_search(
    rows: list[TrajectoryRow], kept_ids: set[int], same: SameAnswer
) -> Iterator[StoredVerdict]:
    answers = {row.answer for row in rows if row.id in kept_ids}
    for row in rows:
        is_good = row.id in kept_ids
        if is_good or row.is_sound is False or not is_among(row.answer, answers, same):
            steps = row.steps["steps"]
            yield StoredVerdict(
                unpack_tokens(row.prompt_tokens),
                unpack_tokens(row.tokens),
                is_good,
                tuple(s["tokens"] for s in steps),
                tuple(s["q"] for s in steps),
            )


def dataset_window(session: Session, run_id: int, number: int, window: int) -> list[int]:
    """Datasets of the `window` rounds up to this one, oldest first."""
    return list(
        session.scalars(
            select(DatasetRow.id)
            .join(Round, Round.id == DatasetRow.round_id)
            .where(Round.run_id == run_id, Round.number <= number, Round.number > number - window)
            .order_by(Round.number)
        )
    )
