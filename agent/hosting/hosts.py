"""What is asked of the hosted models, wherever they live.

Ray actors and this process answer the same calls with the same answers. Calls block, and are safe
from several threads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agent.checkpoints.model_refs import CHECKER, ModelRef
from agent.engine.requests import (
    Completion,
    CompletionRequest,
    Likeliest,
    OptionRequest,
    Options,
    ScoreRequest,
)
from agent.hosting.policy_host import Speculation
from store.states import role_of


def host_of(role: str) -> str:
    """Whose host serves a model: a checker writes on the policy's."""
    return "policy" if role == CHECKER else role_of(role)


Asked = Mapping[str, tuple[ModelRef, Sequence[ScoreRequest]]]
"""By critic which weights are asked for which rows."""


class Hosts(Protocol):
    """Batched calls to the hosted models. Each names the weights it wants."""

    def load(self, ref: ModelRef) -> None:
        """Make weights ready on the host of their role. Raises CheckpointError."""
        ...

    def options(self, policy: ModelRef, requests: Sequence[OptionRequest]) -> list[Options]: ...

    def completions(
        self, policy: ModelRef, requests: Sequence[CompletionRequest]
    ) -> list[Completion]:
        """Completions by a generator on the policy's host, without drafts."""
        ...

    def drafted_completions(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[CompletionRequest],
        speculation: Speculation,
    ) -> list[Completion]:
        """Completions by the policy, drafted by the drafter where that pays."""
        ...

    def logprobs(
        self, policy: ModelRef, requests: Sequence[ScoreRequest]
    ) -> list[tuple[float, ...]]:
        """Log-probability of each scored token of each row."""
        ...

    def likeliest(
        self, policy: ModelRef, requests: Sequence[ScoreRequest], num: int
    ) -> list[Likeliest]:
        """In the place of each scored token the `num` most probable tokens."""
        ...

    def critic_logits(self, asked: Asked) -> dict[str, list[float]]:
        """Raw logit of each row by critic, all critics asked at the same time."""
        ...

    def release(self) -> None:
        """Give back what large models hold, and under Ray all GPUs, before something else needs
        them; each model is read again when it is asked next."""
        ...

    def gpus(self) -> dict[str, int]:
        """By actor the GPU that it reserves, of those that the run reserves, counted from 0; empty
        where none is reserved."""
        ...

    def health(self) -> dict[str, dict[str, Any]]:
        """By actor: state, pid, restarts and what its host says of itself."""
        ...

    def close(self) -> None: ...
