"""Training rows and how they are cut into batches. Pure functions of their arguments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.state import State


@dataclass(frozen=True, slots=True)
class Example:
    """One text for the policy or the drafter."""

    tokens: tuple[int, ...]
    num_prompt: int
    """Leading tokens that are given, not learned."""


def example_of(state: State) -> Example:
    return Example(state.tokens, len(state.prompt_tokens))


@dataclass(frozen=True, slots=True)
class LabelledExample:
    """One text for a critic: a label at each of some places."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Index of the last token of each state that is labelled."""
    labels: tuple[float, ...]
    """Wanted score in [0, 1] at each place."""


@dataclass(frozen=True, slots=True)
class JudgedExample:
    """One row for a critic in the form of a language model: a verdict on its last tokens."""

    tokens: tuple[int, ...]
    num_given: int
    """Leading tokens that the verdict is not about."""
    is_good: bool
    first_wrong: int | None = None
    """Index of the first wrong token; None when the row is good or nobody knows the place."""
    doubts: tuple[float, ...] = ()
    """What the task itself says against it: of whole texts."""


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two ways to go on from one state."""

    given: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SiblingSteps:
    """A state and the steps that were tried there, two at least."""

    given: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    rewards: tuple[float, ...]
    """Mean score of what came of each, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A beginning of a kept trajectory."""

    tokens: tuple[int, ...]
    num_prompt: int
    trajectory: int = 0
    """Tells the trajectories of one data set apart."""


CriticExample = LabelledExample | JudgedExample


def scalar_rows(rows: Sequence[CriticExample]) -> list[LabelledExample]:
    """The rows for a critic with a scalar head: a verdict is read at the row's last token."""
    return [
        LabelledExample(r.tokens, (len(r.tokens) - 1,), (float(r.is_good),))
        if isinstance(r, JudgedExample)
        else r
        for r in rows
    ]


def judged_rows(rows: Sequence[CriticExample]) -> list[JudgedExample]:
    """The rows that a critic in the form of a language model can learn from."""
    return [r for r in rows if isinstance(r, JudgedExample)]


def batches(
    lengths: Sequence[int], batch_size: int, num_steps: int, rng: np.random.Generator
) -> Iterator[list[int]]:
    """Row numbers for each step: epochs in random order, rows of like length together."""
    queue: list[list[int]] = []
    for _ in range(num_steps):
        if not queue:
            order = rng.permutation(len(lengths))
            for start in range(0, len(order), 16 * batch_size):
                window = sorted(order[start : start + 16 * batch_size], key=lambda i: lengths[i])
                queue += [
                    list(map(int, window[i : i + batch_size]))
                    for i in range(0, len(window), batch_size)
                ]
            queue = [queue[i] for i in rng.permutation(len(queue))]
        yield queue.pop()


def stretched_positions(
    num_rows: int, length: int, span: int, generator: torch.Generator
) -> Tensor:
    """For each row a sorted random subset of a random range up to `span`, shape [B, T].

    Training on gaps of every size makes relative distances beyond the trained length familiar
    (randomised positional encodings, Ruoss et al., arXiv 2305.16843). The range itself is drawn
    for each row between the row's length and `span`, so that rows without gaps, which is what
    inference uses, are common too.
    """
    span = max(span, length)
    range_B = torch.randint(length, span + 1, (num_rows, 1), generator=generator)
    keys = torch.rand(num_rows, span, generator=generator)
    keys = keys.masked_fill(torch.arange(span) >= range_B, -1.0)
    return keys.topk(length, dim=1).indices.sort(dim=1).values
