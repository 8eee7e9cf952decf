"""Votes as numbers: which two were compared, what was said, and what votes have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.errors import UsageError
from store.states import Choice

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vote:
    """One comparison, as it was shown."""

    left: str
    right: str
    """The contestants."""
    choice: Choice
    problem: str
    judge: str
    weight: float = 1.0
    """1, or one divided by the chance with which the pair was drawn."""


WIN, LOSS, TIE = 0, 1, 2
"""Outcomes, seen from the first of a pair in the order of names."""
_SEEN = {
    (Choice.LEFT, False): WIN,
    (Choice.LEFT, True): LOSS,
    (Choice.RIGHT, False): LOSS,
    (Choice.RIGHT, True): WIN,
}


@dataclass(frozen=True, slots=True)
class VoteTable:
    """Votes as columns. Everything is in the order of names, so that no figure depends on the
    order in which votes came."""

    contestants: tuple[str, ...]
    problems: tuple[str, ...]
    judges: tuple[str, ...]
    first: Ints
    """V: index of the contestant whose name comes first."""
    second: Ints
    """V."""
    outcome: Ints
    """V: WIN, LOSS or TIE of the first."""
    problem: Ints
    """V."""
    judge: Ints
    """V."""
    weight: Floats
    """V."""

    def __len__(self) -> int:
        return len(self.first)

    def counted(self) -> Floats:
        """MM3: weight of each outcome of each pair, in the corner above the diagonal."""
        m = len(self.contestants)
        key = (self.first * m + self.second) * 3 + self.outcome
        return summed(key, self.weight, m * m * 3).reshape(m, m, 3)

    def met(self) -> Floats:
        """MM: votes of each pair, without their weights, both ways round."""
        m = len(self.contestants)
        found = np.bincount(self.first * m + self.second, minlength=m * m).reshape(m, m)
        return (found + found.T).astype(np.float64)


def vote_table(votes: Sequence[Vote]) -> VoteTable:
    """Columns of votes. Raises UsageError without any, and for a contestant against itself."""
    if not votes:
        raise UsageError(
            "there are no votes yet", "see `ratchet arena --help` for how to cast some"
        )
    names, ix = _indexed([v.left for v in votes] + [v.right for v in votes])
    left, right = ix[: len(votes)], ix[len(votes) :]
    if np.any(left == right):
        told = names[int(left[left == right][0])]
        raise UsageError(f"{told} is compared with itself", "leave that vote out")
    turned = left > right
    outcome = [_SEEN.get((v.choice, bool(t)), TIE) for v, t in zip(votes, turned, strict=True)]
    problems, problem = _indexed([v.problem for v in votes])
    judges, judge = _indexed([v.judge for v in votes])
    return VoteTable(
        names,
        problems,
        judges,
        np.where(turned, right, left),
        np.where(turned, left, right),
        np.asarray(outcome, dtype=np.int64),
        problem,
        judge,
        np.asarray([v.weight for v in votes], dtype=np.float64),
    )


def summed(key: Ints, weight: Floats, size: int) -> Floats:
    """Sums of weights by key, to the bit the same in any order of the entries."""
    order = np.lexsort((weight, key))
    return np.bincount(key[order], weights=weight[order], minlength=size).astype(np.float64)


def _indexed(values: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    names = tuple(sorted(set(values)))
    place = {name: i for i, name in enumerate(names)}
    return names, np.fromiter((place[v] for v in values), dtype=np.int64, count=len(values))
