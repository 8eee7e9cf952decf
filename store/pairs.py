"""Preference pairs out of stored trees: a kept trajectory's step against a worse sibling."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.bulk import insert_rows
from store.database import Store
from store.recording import unpack_tokens
from store.schema import (
    DatasetRow,
    PreferencePair,
    ProblemRow,
    Round,
    Run,
    TrajectoryRow,
)
from store.siblings import Child, tried_states

MIN_MARGIN = 0.1
"""Where a run does not say."""


@dataclass(frozen=True, slots=True)
class StoredPair:
    """Two steps of one state: the one that a kept trajectory took, and one found worse."""

    prompt_tokens: tuple[int, ...]
    before: tuple[int, ...]
    """Tokens of the steps up to the state."""
    chosen: tuple[int, ...]
    rejected_text: str
    rejected_tokens: int
    """How many tokens that text had when it was generated."""
    rejected_stop: str
    margin: float
    """Q of the chosen step less that of the rejected one; a refuted step counts 0."""
    reason: str
    """Why the other one was refuted; empty when its Q was lower."""


_Compared = tuple[TrajectoryRow, tuple[int, ...], int, Child, Child, int]


def stored_pairs(session: Session, dataset_id: int) -> Iterator[StoredPair]:
    """The pairs that were frozen with a dataset, search by search, in its order."""
    for row, tokens, done, taken, worse, num_tokens in _frozen(session, dataset_id):
        yield StoredPair(
            unpack_tokens(row.prompt_tokens),
            tokens[:done],
            tokens[done : done + num_tokens],
            worse.text,
            worse.num_tokens,
            worse.stop,
            taken.q - worse.q,
            worse.unsound_reason or "",
        )


def freeze_pairs(session: Session, dataset_id: int, min_margin: float = MIN_MARGIN) -> int:
    """Write down the pairs along every trajectory of a frozen dataset; how many.

    Under each state the likeliest refuted sibling is the mistake worth unlearning; without one it
    is the visited sibling with the lowest Q, if it lies `min_margin` below the chosen step's.
    """
    rows = [
        (
            dataset_id,
            i,
            row.search_id,
            taken.parent_ix,
            taken.ix,
            worse.ix,
            taken.q - worse.q,
            worse.unsound_reason or "",
        )
        for i, (row, _, _, taken, worse, _) in enumerate(_compared(session, dataset_id, min_margin))
    ]
    columns = (
        "dataset_id",
        "position",
        "search_id",
        "parent_ix",
        "chosen_ix",
        "rejected_ix",
        "margin",
        "reason",
    )
    insert_rows(session, PreferencePair, columns, rows)
    return len(rows)


def freeze_missing_pairs(store: Store) -> int:
    """Write down the pairs of datasets that have none, a dataset a transaction; how many pairs.

    Rounds that ended before pairs were kept have none until then.
    """
    with store.session() as session:
        bare = session.execute(
            select(DatasetRow.id, Run.config)
            .join(Round, Round.id == DatasetRow.round_id)
            .join(Run, Run.id == Round.run_id)
            .where(DatasetRow.id.not_in(select(PreferencePair.dataset_id)))
            .order_by(DatasetRow.id)
        ).all()
    num = 0
    for dataset_id, config in bare:
        margin = config.get("training", {}).get("min_margin", MIN_MARGIN)
        with store.session() as session:
            num += freeze_pairs(session, dataset_id, margin)
    return num


def paired_texts(session: Session, dataset_id: int) -> Iterator[tuple[str, str, str, str, float]]:
    """(problem, steps so far, chosen step, rejected step, margin) of the same pairs, as text."""
    for row, tokens, done, taken, worse, _ in _frozen(session, dataset_id):
        before, end = "", 0
        for step in row.steps["steps"]:
            if end >= done:
                break
            before, end = before + step["text"], end + step["tokens"]
        problem = session.get_one(ProblemRow, row.problem_id)
        assert end == done <= len(tokens)
        yield problem.text, before, taken.text, worse.text, taken.q - worse.q


def _frozen(session: Session, dataset_id: int) -> Iterator[_Compared]:
    """Those of all that could be pairs which were written down, whatever margin was asked then."""
    kept = {
        tuple(row)
        for row in session.execute(
            select(
                PreferencePair.search_id, PreferencePair.chosen_ix, PreferencePair.rejected_ix
            ).where(PreferencePair.dataset_id == dataset_id)
        )
    }
    for found in _compared(session, dataset_id, 0.0):
        row, _, _, taken, worse, _ = found
        if (row.search_id, taken.ix, worse.ix) in kept:
            yield found


def _compared(session: Session, dataset_id: int, min_margin: float) -> Iterator[_Compared]:
    """(trajectory, its tokens, how many before, step taken, worse sibling, the step's tokens)."""
    for at in tried_states(session, dataset_id):
        worse = _worse(at.taken, at.children, min_margin) if at.taken is not None else None
        if at.taken is not None and worse is not None:
            yield at.row, at.tokens, at.done, at.taken, worse, at.num_tokens


def _worse(taken: Child, siblings: list[Child], min_margin: float) -> Child | None:
    if taken.unsound_reason:
        return None  # nothing is worse than what a tool refuted
    others = [c for c in siblings if c.ix != taken.ix]
    refuted = [c for c in others if c.unsound_reason]
    if refuted:
        return max(refuted, key=lambda c: (c.prior, -c.ix))
    lower = [c for c in others if c.visits and taken.visits and taken.q - c.q >= min_margin]
    return min(lower, key=lambda c: (c.q, c.ix), default=None)
