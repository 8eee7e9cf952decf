"""What search asks of an engine, whichever library runs the network behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.engine.draft_choice import Drafter, SelfTest
from agent.engine.requests import (
    Completion,
    CompletionRequest,
    Likeliest,
    OptionRequest,
    Options,
    ScoreRequest,
)
from search.settings import ProposalRule


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do; what it is allowed to do, its self-test says."""

    backend: str
    modes: frozenset[ProposalRule]
    """Of option requests that it answers."""
    max_positions: int
    """Longest context in tokens."""


class RolloutBackend(Protocol):
    """One set of weights that generates and scores. Calls take whole batches."""

    version: str

    @property
    def capabilities(self) -> Capabilities: ...

    def options(self, requests: Sequence[OptionRequest]) -> list[Options]: ...

    def completions(
        self, requests: Sequence[CompletionRequest], drafter: Drafter | None = None
    ) -> list[Completion]: ...

    def score(self, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]: ...

    def likeliest(self, requests: Sequence[ScoreRequest], num: int) -> list[Likeliest]: ...

    def update_weights(self, source: Any, version: str) -> None:
        """Between batches; afterwards nothing that the old weights computed can be reached."""
        ...

    def selftest(self, drafter: Drafter | None = None) -> SelfTest:
        """Whether what it writes has the distribution that it should have; see `selftest`."""
        ...
