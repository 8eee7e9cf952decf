"""States of stored trees with the steps that were tried there, and what came of each."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.recording import unpack_tokens
from store.schema import DatasetItem, NodeRow, NodeText, TrajectoryRow


@dataclass(frozen=True, slots=True)
class Child:
    """A step below a state of a stored tree."""

    ix: int
    parent_ix: int
    visits: int
    value_sum: float
    prior: float
    stop: str
    unsound_reason: str | None
    num_tokens: int
    text: str

    @property
    def q(self) -> float:
        return self.value_sum / self.visits if self.visits and not self.unsound_reason else 0.0


@dataclass(frozen=True, slots=True)
class TriedState:
    """A state on the way to a kept text, in its tree."""

    row: TrajectoryRow
    """The text."""
    tokens: tuple[int, ...]
    """Of all its steps."""
    parent: int
    """The state's node."""
    done: int
    """Tokens of the steps up to the state."""
    children: list[Child]
    taken: Child | None
    """The text's next step; None where a rollout wrote it and the tree has not got it."""
    num_tokens: int
    """Of that step."""


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


def tried_states(session: Session, dataset_id: int) -> Iterator[TriedState]:
    """Those on the way to the texts that a frozen dataset keeps, in its order, as far as their
    trees have steps there."""
    rows = session.execute(
        select(TrajectoryRow)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .where(DatasetItem.dataset_id == dataset_id)
        .order_by(DatasetItem.position)
    ).scalars()
    for row in rows.yield_per(200):
        children_of = _children(session, row.search_id)
        tokens = unpack_tokens(row.tokens)
        parent, done = 0, 0
        for step in row.steps["steps"]:
            children = children_of.get(parent, [])
            taken = next((c for c in children if c.text == step["text"]), None)
            yield TriedState(row, tokens, parent, done, children, taken, step["tokens"])
            if taken is None:
                break  # from here on a rollout wrote the text, and the tree has no siblings
            parent, done = taken.ix, done + step["tokens"]


def stored_siblings(session: Session, dataset_id: int) -> Iterator[StoredSiblings]:
    """Those of the searches that a frozen dataset was kept from, in its order, each state once."""
    seen: set[tuple[int, int]] = set()
    for at in tried_states(session, dataset_id):
        tried = [c for c in at.children if c.visits or c.unsound_reason]
        state = at.row.search_id, at.parent
        if len({c.q for c in tried}) > 1 and state not in seen:
            seen.add(state)
            yield StoredSiblings(
                unpack_tokens(at.row.prompt_tokens),
                at.tokens[: at.done],
                tuple(map(_as_step, tried)),
            )


def _as_step(child: Child) -> StoredStep:
    return StoredStep(child.text, child.num_tokens, child.stop, child.q)


def _children(session: Session, search_id: int) -> dict[int, list[Child]]:
    """Parent to its children, in the order of their numbers."""
    rows = session.execute(
        select(NodeRow, NodeText.text)
        .join(NodeText, (NodeText.search_id == NodeRow.search_id) & (NodeText.ix == NodeRow.ix))
        .where(NodeRow.search_id == search_id, NodeRow.parent_ix.is_not(None))
        .order_by(NodeRow.ix)
    )
    found: dict[int, list[Child]] = defaultdict(list)
    for node, text in rows:
        assert node.parent_ix is not None
        found[node.parent_ix].append(
            Child(
                node.ix,
                node.parent_ix,
                node.visits,
                node.value_sum,
                node.prior or 0.0,
                node.stop or "",
                node.unsound_reason,
                node.num_tokens,
                text,
            )
        )
    return found
