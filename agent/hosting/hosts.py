"""Where the five models live: Ray actors, or, for one-off commands and tests, this process.

Both answer the same calls with the same answers.
"""

import importlib.util
import os
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from agent.engine.requests import TextRequest
from agent.hosting.model_host import ROLES, HostSettings, ModelRef
from agent.hosting.policy_host import Speculation, host_of
from agent.hosting.ray_actors import RayHosts
from search.errors import UsageError


class Hosts(Protocol):
    """Batched calls to the hosted models."""

    def call(self, role: str, method: str, *arguments: Any) -> Any:
        """The answer of one host. Blocks; safe from several threads."""
        ...

    def call_many(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        """Answers of several hosts at once, in order."""
        ...

    def texts(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[TextRequest],
        speculation: Speculation,
    ) -> Any:
        """Completions by the policy, drafted by the drafter where that pays."""
        ...

    def health(self) -> dict[str, dict[str, Any]]: ...

    def close(self) -> None: ...


class InlineHosts:
    """All hosts in this process: quick to start, one model call at a time for each role."""

    def __init__(self, settings: HostSettings) -> None:
        self._hosts = {role: host_of(role, settings) for role in ROLES}
        self._locks = {role: threading.Lock() for role in ROLES}

    def call(self, role: str, method: str, *arguments: Any) -> Any:
        with self._locks[role]:
            return getattr(self._hosts[role], method)(*arguments)

    def call_many(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        return [self.call(role, method, *arguments) for role, method, arguments in calls]

    def texts(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[TextRequest],
        speculation: Speculation,
    ) -> Any:
        def draft(*arguments: Any) -> list[list[int]]:
            return list(self.call("drafter", "draft", *arguments))

        return self.call("policy", "drafted_texts", policy, drafter, requests, speculation, draft)

    def health(self) -> dict[str, dict[str, Any]]:
        return {
            role: {"pid": os.getpid(), "state": "alive", "restarts": 0} | host.health()
            for role, host in self._hosts.items()
        }

    def close(self) -> None:
        self._hosts.clear()


def make_hosts(hosting: str, settings: HostSettings, ray_address: str = "") -> Hosts:
    """Raises UsageError for settings that this environment or each other rule out."""
    if settings.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UsageError(
            "hosting.engine is 'vllm', but vLLM is not installed",
            "pip install -e '.[vllm]', or set hosting.engine to torch",
        )
    if hosting == "ray":
        return RayHosts(settings, ray_address)
    if settings.workers > 1:
        raise UsageError(
            f"hosting.workers is {settings.workers}, but inline hosting is one process",
            "set hosting.workers to 1, or use --hosting ray",
        )
    return InlineHosts(settings)
