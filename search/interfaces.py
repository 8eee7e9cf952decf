"""What the search asks of the outside: options for nodes, and evaluations of nodes.

Both take whole batches, so that one call serves the leaves of many trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from search.score import Score
from search.state import Option, State


@dataclass(frozen=True, slots=True)
class Proposal:
    """Options for one state, in order of the proposer's preference."""

    options: tuple[Option, ...]
    unsound: tuple[str, ...] = ()
    """For each option why a tool finds it unsound, or an empty text; empty when no tool looked."""
    num_tokens: int = 0
    """Tokens that the policy read to find them: the state's last, and those of partial options,
    whether they came to anything or not."""
    num_calls: int = 1
    """Requests to models."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of a state to the end."""

    state: State
    """The completed state."""
    num_given: int
    """Options that the state had before."""
    num_sound: int
    """Leading new options that a tool found sound; 0 when there is no tool."""
    is_sound: bool | None
    """Whether a tool found the whole text sound; None when it has nothing to say."""
    outcome: Score
    answer: str | None
    """Final answer in its normal form; None when the text has none."""

    @property
    def num_fed(self) -> int:
        """Tokens that the policy read to write it: for each new one that before it. The rest of the
        prompt, which every way to answer reads once, is left out."""
        return sum(len(o.tokens) for o in self.state.options[self.num_given :])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What critics, tools and rollouts say of one state."""

    value: float | None
    """The blend, in [0, 1]; None when no critic scored the state."""
    scores: tuple[Score, ...] = ()
    rollouts: tuple[Rollout, ...] = field(default=())
    """For a terminal state the state itself, once."""
    num_tokens: int = 0
    """Tokens that the policy read for the rollouts."""
    num_calls: int = 1
    """Requests to models: rollouts and critics."""


@dataclass(frozen=True, slots=True)
class ExpandRequest:
    state: State
    count: int
    """Different options wanted in all, those already known included."""
    seed: int
    known: int = 0
    """Options that were asked for, and paid for, before."""


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    state: State
    seed: int
    known: tuple[Rollout, ...] = ()
    """Rollouts of an ancestor that already go through this state; they need not be generated."""


class Proposer(Protocol):
    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]: ...


class Evaluator(Protocol):
    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]: ...
