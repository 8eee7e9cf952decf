"""All models in this process: for one-off commands and tests."""

import os
import threading
from collections.abc import Sequence
from typing import Any

from agent.checkpoints.model_refs import CRITIC_ROLES, ROLES, ModelRef
from agent.engine.requests import (
    Completion,
    CompletionRequest,
    Likeliest,
    OptionRequest,
    Options,
    ScoreRequest,
)
from agent.hosting.hosts import Asked, host_of
from agent.hosting.model_host import CriticHost, GeneratorHost, Host, HostSettings
from agent.hosting.policy_host import PolicyHost, Speculation
from agent.networks.shared_blocks import SharedBlocks
from store.states import ActorState


class InlineHosts:
    """Quick to start; one model call at a time for each role."""

    def __init__(self, settings: HostSettings) -> None:
        shared = SharedBlocks()
        self._policy = PolicyHost("policy", settings, shared)
        self._drafter = GeneratorHost("drafter", settings, shared)
        self._critics = {role: CriticHost(role, settings, shared) for role in CRITIC_ROLES}
        self._locks = {role: threading.Lock() for role in ROLES}

    def _hosts(self) -> dict[str, Host]:
        return {"policy": self._policy, "drafter": self._drafter, **self._critics}

    def load(self, ref: ModelRef) -> None:
        role = host_of(ref.role)
        with self._locks[role]:
            self._hosts()[role].load(ref)

    def options(self, policy: ModelRef, requests: Sequence[OptionRequest]) -> list[Options]:
        with self._locks["policy"]:
            return self._policy.options(policy, requests)

    def completions(
        self, policy: ModelRef, requests: Sequence[CompletionRequest]
    ) -> list[Completion]:
        with self._locks["policy"]:
            return self._policy.completions(policy, requests)

    def drafted_completions(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[CompletionRequest],
        speculation: Speculation,
    ) -> list[Completion]:
        with self._locks["policy"]:
            return self._policy.drafted_completions(
                policy, drafter, requests, speculation, self._draft
            )

    def _draft(self, *arguments: Any) -> list[list[int]]:
        with self._locks["drafter"]:
            return self._drafter.draft(*arguments)

    def logprobs(
        self, policy: ModelRef, requests: Sequence[ScoreRequest]
    ) -> list[tuple[float, ...]]:
        with self._locks["policy"]:
            return self._policy.logprobs(policy, requests)

    def likeliest(
        self, policy: ModelRef, requests: Sequence[ScoreRequest], num: int
    ) -> list[Likeliest]:
        with self._locks["policy"]:
            return self._policy.likeliest(policy, requests, num)

    def critic_logits(self, asked: Asked) -> dict[str, list[float]]:
        found = {}
        for role, (ref, requests) in asked.items():
            with self._locks[role]:
                found[role] = self._critics[role].logits(ref, requests)
        return found

    def release(self) -> None:
        for role, host in self._hosts().items():
            with self._locks[role]:
                host.release()

    def gpus(self) -> dict[str, int]:
        return {}

    def health(self) -> dict[str, dict[str, Any]]:
        own = {"pid": os.getpid(), "state": ActorState.ALIVE, "restarts": 0}
        return {role: own | host.health() for role, host in self._hosts().items()}

    def close(self) -> None:
        for host in self._hosts().values():
            host.close()
