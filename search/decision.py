"""Whether the answer of a search can still change."""

from collections.abc import Sequence

from search.candidates import Candidate, SameAnswer, grouped
from search.state import probability
from search.tree import Node


class Decision:
    """Looks again when there are an eighth more texts: all looks together cost what the last one
    does."""

    def __init__(self, same: SameAnswer) -> None:
        self.same = same
        self._next = 0

    def is_made(self, candidates: Sequence[Candidate], nodes: Sequence[Node]) -> bool:
        """Whether what is unexplored could not change the answer, were it all texts of one answer
        with an outcome score of 1."""
        if len(candidates) < self._next:
            return False
        self._next = len(candidates) + 1 + len(candidates) // 8
        answered = [c for c in candidates if c.rollout.answer is not None]
        weights = [c.score * probability(c.logprob) for c in answered]
        open_mass = unexplored(nodes)
        if sum(weights) <= open_mass:
            return False
        votes: dict[int, float] = {}
        groups = grouped([c.rollout.answer for c in answered], self.same)
        for group, weight in zip(groups, weights, strict=True):
            votes[group] = votes.get(group, 0.0) + weight
        first, second = [*sorted(votes.values(), reverse=True), 0.0][:2]
        return first - second > open_mass


def unexplored(nodes: Sequence[Node]) -> float:
    """Probability, of all wordings together, that is still to explore, and that of refuted steps
    whose right form may still be found."""
    found = sum(node.mass for node in nodes if node.parent is None)
    for node in nodes:
        if node.spare:
            share = sum(node.spare.values())
            above: Node = node
            while above.parent is not None:
                share *= above.parent_edge.prior
                above = above.parent
            found += share
    return found
