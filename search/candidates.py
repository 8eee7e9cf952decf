"""The finished texts that a search came across, and which of them is its answer."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import eq

from search.budget import Budget, StopReason
from search.interfaces import Rollout
from search.settings import FinalRule
from search.state import probability
from search.tree import Node

SameAnswer = Callable[[str, str], bool]
"""Whether two answers are equal; what they look like decides unless a task knows better."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished text that the search came across."""

    rollout: Rollout
    node: Node
    """Tree node whose evaluation brought it."""

    @property
    def logprob(self) -> float:
        """Log-probability of the text under the policy, of each step with those that it stands for:
        merged ones, and refuted ones that worked out the same."""
        path = self.node.path()
        rest = self.rollout.state.options[len(path) :]
        known = (math.log(e.prior) if e.prior > 0.0 else e.option.logprob for e in path)
        return sum(known) + sum(option.logprob for option in rest)

    @property
    def score(self) -> float:
        """Outcome score; one half when unscored, none when a tool found the text unsound."""
        if self.rollout.is_sound is False:
            return 0.0
        return 0.5 if self.rollout.outcome.value is None else self.rollout.outcome.value


@dataclass(frozen=True, slots=True)
class Result:
    """What a search came to."""

    chosen: Candidate | None
    """None when no text was finished."""
    runner_up: Candidate | None
    """Best candidate with another answer."""
    confidence: float | None
    """Share of all candidates' weight that stands behind the chosen answer; None without one."""
    stop_reason: StopReason
    budget: Budget


def weights(candidates: Sequence[Candidate]) -> list[float]:
    """For each candidate its outcome score times its probability, the likeliest text's being 1.

    Candidates are different texts, so each stands for all samples of it: the sum of weights
    behind an answer is what an ORM-weighted vote over endless samples would count.
    """
    logprobs = [c.logprob for c in candidates]
    top = max(logprobs, default=0.0)
    return [c.score * probability(p - top) for c, p in zip(candidates, logprobs, strict=True)]


def ranked(
    candidates: Sequence[Candidate], rule: FinalRule, same: SameAnswer = eq
) -> list[tuple[Candidate, float]]:
    """Candidates with their weights, the rule's choice first; sound ones before others, and those
    without an answer last."""
    pairs = list(zip(candidates, weights(candidates), strict=True))
    if rule == "visits":
        pairs.sort(key=lambda p: (_path_visits(p[0]), p[1]), reverse=True)
    else:
        pairs.sort(key=lambda p: (p[0].rollout.is_sound is True, p[1]), reverse=True)
    if rule == "vote":
        behind = _votes(pairs, same)
        order = sorted(range(len(pairs)), key=lambda i: behind[i], reverse=True)
        pairs = [pairs[i] for i in order]
    return sorted(pairs, key=lambda p: p[0].rollout.answer is None)


def _votes(pairs: Sequence[tuple[Candidate, float]], same: SameAnswer) -> list[float]:
    """For each candidate the weight of all whose answer is equal to its own; answers are grouped
    under the first one that they are equal to."""
    answers = [c.rollout.answer for c, _ in pairs]
    groups = grouped(answers, same)
    sums: dict[int, float] = {}
    for group, (_, weight) in zip(groups, pairs, strict=True):
        sums[group] = sums.get(group, 0.0) + weight
    return [sums[group] for group in groups]


def grouped(answers: Sequence[str | None], same: SameAnswer = eq) -> list[int]:
    """For each answer the index of the first one that it is equal to; no answer equals none.

    >>> grouped(["1/2", "3", None, "0.5"], lambda a, b: {a, b} == {"1/2", "0.5"})
    [0, 1, 2, 0]
    """
    firsts: list[int] = []
    found: list[int] = []
    for i, answer in enumerate(answers):
        group = next((k for k in firsts if _is_same(answers[k], answer, same)), i)
        if group == i:
            firsts.append(i)
        found.append(group)
    return found


def _is_same(left: str | None, right: str | None, same: SameAnswer) -> bool:
    if left is None or right is None:
        return left is right
    return left == right or same(left, right)


def is_among(answer: str | None, others: Collection[str | None], same: SameAnswer = eq) -> bool:
    """Whether an answer is equal to one of others; no answer equals none."""
    return answer in others or any(_is_same(answer, other, same) for other in others)


def judged(
    candidates: Sequence[Candidate],
    rule: FinalRule,
    stop_reason: StopReason,
    budget: Budget,
    same: SameAnswer = eq,
) -> Result:
    """The answer of a search by its final rule, with the runner-up and how sure it is."""
    order = ranked(candidates, rule, same)
    chosen = order[0][0] if order else None
    answer = chosen.rollout.answer if chosen else None
    is_equal = [_is_same(answer, c.rollout.answer, same) for c, _ in order]
    runner_up = next((c for (c, _), e in zip(order, is_equal, strict=True) if not e), None)
    if answer is None:
        return Result(chosen, runner_up, None, stop_reason, budget)
    total = sum(weight for _, weight in order)
    behind = sum(weight for (_, weight), e in zip(order, is_equal, strict=True) if e)
    return Result(chosen, runner_up, behind / total if total else 0.0, stop_reason, budget)


def _path_visits(candidate: Candidate) -> int:
    return sum(e.visits for e in candidate.node.path())
