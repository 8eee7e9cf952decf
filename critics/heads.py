"""What the three trained critics share: one number for a state, calibrated.

The number is read at the state's last token by a scalar head (value), or it is the log-odds that
each of the judged tokens is right (process and outcome): a critic in the form of a language model
that starts as the policy and learns to tell its right tokens from its wrong ones. The product of
its token probabilities is the chance that nothing judged is wrong, so it begins as good as the
policy's own probability, which a head on the last token's state cannot see (implicit process
rewards, Yuan et al., arXiv 2412.01981, without the reference model).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from critics.calibration import Calibration
from search.score import DOES_NOT_APPLY, Score
from search.state import State

LEAST_DOUBT = 1e-6
"""A text is never taken to be surer than this."""


def log_odds(logprob: float) -> float:
    """log(p / (1 - p)) of a probability given as its logarithm; NaN stays NaN."""
    logprob = min(logprob, -LEAST_DOUBT) if math.isfinite(logprob) else logprob
    return logprob - math.log(-math.expm1(logprob)) if math.isfinite(logprob) else math.nan


@dataclass(frozen=True, slots=True)
class TrainedCritic:
    """A critic is the version of its weights and its calibration; its model runs elsewhere."""

    version: str
    calibration: Calibration = field(default_factory=Calibration)

    name: ClassVar[str] = ""

    def applies(self, state: State) -> bool:
        """Whether this critic has anything to say of such a state."""
        raise NotImplementedError

    def num_given(self, state: State) -> int:
        """Leading tokens of the state that are not judged."""
        return len(state.prompt_tokens)

    def score(
        self,
        states: Sequence[State],
        logits: Sequence[float],
        doubts: Callable[[State], Sequence[float]] = lambda state: (),
    ) -> list[Score]:
        """One Score a state. `logits` are the model's, for the states that apply, in order;
        `doubts` is what the task says against a state, asked only where it has a weight.

        A state that the critic does not apply to, or whose logit is not finite, stays unscored.
        """
        left = iter(logits)
        return [
            self._score(next(left), doubts(state) if self.calibration.doubts else ())
            if self.applies(state)
            else Score(self.name, self.version, None, DOES_NOT_APPLY)
            for state in states
        ]

    def _score(self, logit: float, doubts: Sequence[float]) -> Score:
        if not math.isfinite(logit):
            return Score(self.name, self.version, None, f"the score was {logit}")
        value = self.calibration.apply(float(logit), doubts)
        if not math.isfinite(value):
            return Score(self.name, self.version, None, f"the task's doubts are {tuple(doubts)}")
        return Score(self.name, self.version, value)
