"""What the three trained critics share: one number read at one token of a state, calibrated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from critics.calibration import Calibration
from search.score import Score
from search.state import State


@dataclass(frozen=True, slots=True)
class TrainedCritic:
    """A critic is the version of its weights and its calibration; its model runs elsewhere."""

    version: str
    calibration: Calibration = field(default_factory=Calibration)

    name: ClassVar[str] = ""

    def applies(self, state: State) -> bool:
        """Whether this critic has anything to say of such a state."""
        raise NotImplementedError

    def score(self, states: Sequence[State], logits: Sequence[float]) -> list[Score]:
        """One Score a state. `logits` are the model's, for the states that apply, in order.

        A state that the critic does not apply to, or whose logit is not finite, stays unscored.
        """
        left = iter(logits)
        return [
            self._score(next(left))
            if self.applies(state)
            else Score(self.name, self.version, None, "does not apply")
            for state in states
        ]

    def _score(self, logit: float) -> Score:
        if not math.isfinite(logit):
            return Score(self.name, self.version, None, f"the score was {logit}")
        return Score(self.name, self.version, self.calibration.apply(float(logit)))
