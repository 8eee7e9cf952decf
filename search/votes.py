"""What the finished texts of a search say so far, kept up as they come."""

from search.candidates import Candidate, SameAnswer
from search.state import probability


class Votes:
    """For each answer the weight of its texts: outcome score times probability."""

    def __init__(self, same: SameAnswer) -> None:
        self.same = same
        self.weights: dict[str, float] = {}
        """By the first form of each answer."""
        self._forms: dict[str, str] = {}
        self._most = 0.0

    def add(self, candidate: Candidate) -> None:
        answer = candidate.rollout.answer
        if answer is None:
            return
        form = self._forms.get(answer)
        if form is None:
            form = next((known for known in self.weights if self.same(known, answer)), answer)
            self._forms[answer] = form
        weight = self.weights.get(form, 0.0) + candidate.score * probability(candidate.logprob)
        self.weights[form] = weight
        self._most = max(self._most, weight)

    def is_decided(self, unexplored: float) -> bool:
        """Whether texts of the probability that is unexplored could not change the answer, were
        they all of one answer and scored 1."""
        if self._most <= unexplored:
            return False
        first, second = [*sorted(self.weights.values(), reverse=True), 0.0][:2]
        return first - second > unexplored
