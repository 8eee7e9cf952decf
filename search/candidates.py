"""The finished texts that a search came across, and which of them is its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from search.budget import Budget, StopReason
from search.interfaces import Rollout
from search.settings import FinalRule
from search.state import probability
from search.tree import Node


@dataclass(frozen=True, slots=True)
class Candidate:
    """A finished text that the search came across."""

    rollout: Rollout
    node: Node
    """Tree node whose evaluation brought it."""

    @property
    def logprob(self) -> float:
        """Log-probability of the text under the policy."""
        return sum(option.logprob for option in self.rollout.state.options)

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
    confidence: float
    """Share of all candidates' weight that stands behind the chosen answer; 0 without one."""
    stop_reason: StopReason
    budget: Budget


def weights(candidates: Sequence[Candidate]) -> list[float]:
    """For each candidate its outcome score times its probability, the likeliest text's being 1.

    Candidates are different texts, so each stands for all samples of it: the sum of weights
    behind an answer is what an ORM-weighted vote over endless samples would count.
    """
    top = max((c.logprob for c in candidates), default=0.0)
    return [c.score * probability(c.logprob - top) for c in candidates]


def ranked(candidates: Sequence[Candidate], rule: FinalRule) -> list[tuple[Candidate, float]]:
    """Candidates with their weights, the rule's choice first; sound ones before others."""
    pairs = list(zip(candidates, weights(candidates), strict=True))
    if rule == "visits":
        return sorted(pairs, key=lambda p: (_path_visits(p[0]), p[1]), reverse=True)
    pairs.sort(key=lambda p: (p[0].rollout.is_sound is True, p[1]), reverse=True)
    if rule == "best":
        return pairs
    votes: dict[str | None, float] = {}
    for candidate, weight in pairs:
        answer = candidate.rollout.answer
        votes[answer] = votes.get(answer, 0.0) + weight
    return sorted(pairs, key=lambda p: votes[p[0].rollout.answer], reverse=True)


def judged(
    candidates: Sequence[Candidate], rule: FinalRule, stop_reason: StopReason, budget: Budget
) -> Result:
    """The answer of a search by its final rule, with the runner-up and how sure it is."""
    order = ranked(candidates, rule)
    chosen = order[0][0] if order else None
    answer = chosen.rollout.answer if chosen else None
    runner_up = next((c for c, _ in order if c.rollout.answer != answer), None)
    total = sum(weight for _, weight in order)
    behind = sum(weight for c, weight in order if c.rollout.answer == answer)
    return Result(chosen, runner_up, behind / total if total else 0.0, stop_reason, budget)


def _path_visits(candidate: Candidate) -> int:
    return sum(e.visits for e in candidate.node.path())
