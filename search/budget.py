"""When a search has had enough."""

from dataclasses import dataclass
from typing import Literal

from search.settings import SearchSettings

StopReason = Literal[
    "",
    "simulations",
    "tokens",
    "calls",
    "seconds",
    "solved",
    "decided",
    "converged",
    "exhausted",
    "failed",
]


@dataclass(slots=True)
class Budget:
    """What a search has spent so far."""

    simulations: int = 0
    tokens: int = 0
    """Read by the policy, those of discarded options included, the prompts left out."""
    calls: int = 0
    """Requests to models: one for each expansion, rollout and critic."""
    seconds: float = 0.0
    """As the caller's clock says; 0 without a clock."""
    started: int = 0
    """Simulations asked for, finished or not."""

    def exceeded(self, settings: SearchSettings) -> StopReason:
        if self.started >= settings.simulations:
            return "simulations"
        if settings.max_tokens and self.tokens >= settings.max_tokens:
            return "tokens"
        if settings.max_calls and self.calls >= settings.max_calls:
            return "calls"
        if settings.max_seconds and self.seconds >= settings.max_seconds:
            return "seconds"
        return ""
