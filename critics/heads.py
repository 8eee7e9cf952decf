"""What the three trained critics share: one number read at one token of a state, calibrated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from critics.calibration import Calibration
from search.score import Score
from search.state import State


class Scorer(Protocol):
    """Runs a critic model over whole rows in one batch."""

    def __call__(self, rows: Sequence[tuple[int, ...]]) -> Sequence[float]:
        """Raw logit at the last token of each row; NaN where the model gave none."""
        ...


@dataclass(frozen=True, slots=True)
class TrainedCritic:
    """A critic is its scorer, the version of its weights and its calibration."""

    version: str
    scorer: Scorer
    calibration: Calibration = Calibration()

    name: ClassVar[str] = ""

    def applies(self, state: State) -> bool:
        """Whether this critic has anything to say of such a state."""
        raise NotImplementedError

    def score(self, states: Sequence[State]) -> list[Score]:
        """One Score a state, in order; None where it does not apply or was not finite."""
        asked = [i for i, state in enumerate(states) if self.applies(state)]
        raw = self.scorer([states[i].tokens for i in asked]) if asked else []
        scores = [Score(self.name, self.version, None, "does not apply")] * len(states)
        for i, logit in zip(asked, raw, strict=True):
            if math.isfinite(logit):
                value = self.calibration.apply(float(logit))
                scores[i] = Score(self.name, self.version, value)
            else:
                scores[i] = Score(self.name, self.version, None, f"the score was {logit}")
        return scores
