"""States of stored trees with the steps that were tried there, and what came of each."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.pairs import Child, children_of
from store.recording import unpack_tokens
from store.schema import DatasetItem, TrajectoryRow


@dataclass(frozen=True, slots=True)
class StoredStep:
    """A step as its tree holds it."""

    text: str
    num_tokens: int
    """That it had when it was generated."""
    stop: str
    q: float
    """Mean value of the simulations through it; 0 where the tool refuted it."""


@dataclass(frozen=True, slots=True)
class StoredSiblings:
    """A state on the way to a kept text, and its steps: two at least, not all of one Q."""

    prompt_tokens: tuple[int, ...]
    before: tuple[int, ...]
    """Tokens of the steps up to the state."""
    steps: tuple[StoredStep, ...]


def stored_siblings(session: Session, dataset_id: int) -> Iterator[StoredSiblings]:
    """Those of the searches that a frozen dataset was kept from, in its order, each state once."""
    rows = session.execute(
        select(TrajectoryRow)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .where(DatasetItem.dataset_id == dataset_id)
        .order_by(DatasetItem.position)
    ).scalars()
    seen: set[tuple[int, int]] = set()
    for row in rows.yield_per(200):
        children = children_of(session, row.search_id)
        tokens = unpack_tokens(row.tokens)
        parent, done = 0, 0
        for step in row.steps["steps"]:
            siblings = children.get(parent, [])
            tried = [c for c in siblings if c.visits or c.unsound_reason]
            if len({c.q for c in tried}) > 1 and (row.search_id, parent) not in seen:
                seen.add((row.search_id, parent))
                yield StoredSiblings(
                    unpack_tokens(row.prompt_tokens), tokens[:done], tuple(map(_as_step, tried))
                )
            taken = next((c for c in siblings if c.text == step["text"]), None)
            if taken is None:
                break  # from here on a rollout wrote the text, and the tree has no siblings
            parent, done = taken.ix, done + step["tokens"]


def _as_step(child: Child) -> StoredStep:
    return StoredStep(child.text, child.num_tokens, child.stop, child.q)
