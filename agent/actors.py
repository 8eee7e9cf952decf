"""Where the five models live: Ray actors, or, for one-off commands and tests, this process.

Both answer the same calls. A call that finds its actor dead waits for the restart that Ray makes
and is sent again as it was; hosts are idempotent, so nothing is done twice with effect.
"""

import importlib.util
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.engine.checkpoint import inspect_checkpoint
from agent.engine.hosts import (
    KEPT_MODELS,
    ROLES,
    CalledDrafts,
    GeneratorHost,
    HostSettings,
    ModelRef,
    make_host,
)
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import TextRequest
from agent.engine.speculative import Drafter, DraftSource
from search.errors import CheckpointError, ResourceError, UsageError

RECOVERY_S = 180.0
MAX_DEATHS = 20
COST_ROWS = (1, 4, 16, 64)

log = logging.getLogger("ratchet")


@dataclass(frozen=True, slots=True)
class Speculation:
    """Whether rollouts are drafted: `auto` by measured cost, `always`, or `never`."""

    mode: str = "auto"
    draft_tokens: int = 4
    source: str = "both"
    """`model`, `lookup`, or `both`: whichever has the better acceptance for its cost."""


class Hosts(Protocol):
    """Batched calls to the hosted models."""

    def call(self, role: str, method: str, *arguments: Any) -> Any:
        """The answer of one host. Blocks; safe from several threads."""
        ...

    def call_many(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        """Answers of several hosts at once, in order."""
        ...

    def texts(
        self, policy: ModelRef, drafter: ModelRef | None, requests: Sequence[TextRequest],
        speculation: Speculation,
    ) -> Any:  # fmt: skip
        """Completions by the policy, drafted by the drafter where that pays."""
        ...

    def health(self) -> dict[str, dict[str, Any]]: ...

    def close(self) -> None: ...


class PolicyHost(GeneratorHost):
    """The policy's host, which knows how to reach the drafter."""

    def __init__(self, role: str, settings: HostSettings) -> None:
        super().__init__(role, settings)
        self._drafters: dict[tuple[str, str], Drafter] = {}

    def drafted_texts(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[TextRequest],
        speculation: Speculation,
        draft: Callable[..., list[list[int]]],
    ) -> Any:
        """Completions, drafted where that pays and the policy's self-test allows it."""
        if speculation.mode == "never" or self.settings.engine == "vllm":
            return self.texts(policy, requests)
        key = (policy.version, drafter.version if drafter else "")
        if key not in self._drafters:
            self._drafters[key] = self._drafter(policy, drafter, speculation, draft)
            while len(self._drafters) > KEPT_MODELS:
                self._drafters.pop(next(iter(self._drafters)))
        return self.texts(policy, requests, self._drafters[key])

    def _drafter(
        self, policy: ModelRef, drafter: ModelRef | None, speculation: Speculation,
        draft: Callable[..., list[list[int]]],
    ) -> Drafter:  # fmt: skip
        sources: list[DraftSource] = []
        if drafter is not None and speculation.source in ("model", "both"):
            known, drafted = (
                inspect_checkpoint(ref.path).architecture.vocab_size for ref in (policy, drafter)
            )
            if known != drafted:
                raise CheckpointError(
                    f"the drafter in {drafter.path} has {drafted} tokens, the policy {known}",
                    "use a drafter with the policy's own vocabulary, such as one cut from it",
                )
            sources.append(CalledDrafts(draft, drafter))
        if speculation.source in ("lookup", "both"):
            sources.append(LookupDrafts())
        engine = self._model(policy)
        made = Drafter(
            sources,
            speculation.draft_tokens,
            speculation.mode,
            selftest=engine.selftest,
            policy=policy.version,
            drafter=drafter.version if drafter else "",
        )
        if speculation.mode == "auto":
            made.costs = self.measure_costs(policy, sources, COST_ROWS)
        return made

    def health(self) -> dict[str, Any]:
        last = next(reversed(self._drafters.values()), None) if self._drafters else None
        return super().health() | {"pid": os.getpid(), "speculation": last and last.report()}


def _make(role: str, settings: HostSettings) -> Any:
    return PolicyHost(role, settings) if role == "policy" else make_host(role, settings)


class InlineHosts:
    """All hosts in this process: quick to start, one model call at a time for each role."""

    def __init__(self, settings: HostSettings) -> None:
        self._hosts = {role: _make(role, settings) for role in ROLES}
        self._locks = {role: threading.Lock() for role in ROLES}

    def call(self, role: str, method: str, *arguments: Any) -> Any:
        with self._locks[role]:
            return getattr(self._hosts[role], method)(*arguments)

    def call_many(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        return [self.call(role, method, *arguments) for role, method, arguments in calls]

    def texts(
        self, policy: ModelRef, drafter: ModelRef | None, requests: Sequence[TextRequest],
        speculation: Speculation,
    ) -> Any:  # fmt: skip
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


class _Actor:
    """What runs in a Ray actor: one host. Decorated at the edge, in `RayHosts`."""

    def __init__(self, role: str, settings: HostSettings) -> None:
        self.host = _make(role, settings)

    def run(self, method: str, *arguments: Any) -> Any:
        return getattr(self.host, method)(*arguments)

    def drafted_texts(
        self, policy: ModelRef, drafter: ModelRef | None, requests: Sequence[TextRequest],
        speculation: Speculation, drafter_actor: Any,
    ) -> Any:  # fmt: skip
        import ray

        def draft(*arguments: Any) -> list[list[int]]:
            try:
                found: list[list[int]] = ray.get(drafter_actor.run.remote("draft", *arguments))
                return found
            except ray.exceptions.RayActorError:
                # Without drafts the policy writes the same tokens, only one at a time.
                return [[] for _ in arguments[1]]

        return self.host.drafted_texts(policy, drafter, requests, speculation, draft)

    def health(self) -> dict[str, Any]:
        return {"pid": os.getpid()} | self.host.health()


@dataclass(slots=True)
class _Handle:
    actor: Any
    pid: int = 0
    restarts: int = 0
    num_waiting: int = 0
    """Calls sent to it and not answered yet."""
    last: dict[str, Any] = field(default_factory=dict)


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def start_ray(address: str) -> bool:
    """Join the cluster at `address`, or start a local one. True when this process started it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray runs its workers at niceness 15, where any other busy process starves them; here they
    # are the work itself.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {
        "namespace": "ratchet", "log_to_driver": False, "logging_level": logging.ERROR,
        "configure_logging": True,
    }  # fmt: skip
    # A job that Ray runs on a cluster finds the cluster in its environment.
    address = address or os.environ.get("RAY_ADDRESS", "")
    if address:
        try:
            _knock(address)
            ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"no Ray cluster answers at {address!r}: {str(error).splitlines()[0]}",
                "start one with `ray start --head`, or leave --ray-address out",
            ) from error
        return False
    try:
        ray.init(address="local", include_dashboard=False, **quiet)
    except (RuntimeError, OSError) as error:
        raise ResourceError(
            f"the local Ray cluster did not start: {str(error).splitlines()[0]}",
            "free some memory and disk under /tmp, or use --hosting inline",
        ) from error
    return True


class RayHosts:
    """One actor a role, several of the policy if so set; restarted by Ray when they die."""

    def __init__(self, settings: HostSettings, address: str = "") -> None:
        self.owns_cluster = start_ray(address)
        import ray

        self._ray = ray
        gpus = float(ray.cluster_resources().get("GPU", 0))
        if settings.device.startswith("cuda") and not gpus:
            raise ResourceError(
                f"device {settings.device!r} is asked for, but the cluster has no GPU",
                "leave hosting.device at auto, or set it to cpu",
            )
        share = min(1.0, gpus / (len(ROLES) - 1 + settings.workers)) if gpus else 0.0
        threads = str(settings.threads)
        # Health answers from a thread of its own, however long a model call takes.
        setattr(_Actor, "health", ray.method(concurrency_group="health")(_Actor.health))  # noqa: B010
        remote = ray.remote(
            num_cpus=0,
            num_gpus=share,
            max_restarts=-1,
            max_task_retries=0,
            concurrency_groups={"health": 1},
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        )(_Actor)
        names = [*ROLES, *(f"policy-{i}" for i in range(1, settings.workers))]
        self._handles = {
            name: _Handle(remote.remote(name.partition("-")[0], settings)) for name in names
        }
        self._policies = [h for n, h in self._handles.items() if n.partition("-")[0] == "policy"]
        self._choosing = threading.Lock()

    def _worker(self, role: str) -> _Handle:
        """The host that serves a call: of several policies the one with the fewest waiting."""
        if role != "policy":
            return self._handles[role]
        return min(self._policies, key=lambda h: h.num_waiting)

    def _send(self, worker: _Handle, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "drafted_texts":
            drafter = self._handles["drafter"].actor
            return worker.actor.drafted_texts.remote(*arguments, drafter)
        return worker.actor.run.remote(method, *arguments)

    def call(self, role: str, method: str, *arguments: Any) -> Any:
        return self.call_many([(role, method, arguments)])[0]

    def call_many(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        workers: list[_Handle] = []
        with self._choosing:
            for role, _, _ in calls:
                workers.append(self._worker(role))
                workers[-1].num_waiting += 1
        try:
            sent = [self._send(w, c[1], c[2]) for w, c in zip(workers, calls, strict=True)]
            return [self._wait(*each) for each in zip(workers, calls, sent, strict=True)]
        finally:
            with self._choosing:
                for worker in workers:
                    worker.num_waiting -= 1

    def _wait(self, worker: _Handle, call: tuple[str, str, tuple[Any, ...]], pending: Any) -> Any:
        """The answer, sent again for as long as a restart takes."""
        deadline, pause, num_deaths = 0.0, 0.25, 0
        while True:
            try:
                return self._ray.get(pending)
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                raise cause from error
            except self._ray.exceptions.RayActorError as error:
                deadline = deadline or time.monotonic() + RECOVERY_S
                # A died actor answers again within the deadline; one that this very call kills
                # each time must not be fed for ever.
                num_deaths += isinstance(error, self._ray.exceptions.ActorDiedError)
                if time.monotonic() > deadline or num_deaths > MAX_DEATHS:
                    raise ResourceError(
                        f"the {call[0]} actor did not come back within {RECOVERY_S:.0f} s: {error}",
                        "look at `ratchet status` and the Ray logs, then run the command again",
                    ) from error
                log.warning("the %s actor died; sending its call again", call[0])
                time.sleep(pause)
                pause = min(2 * pause, 4.0)
                pending = self._send(worker, call[1], call[2])

    def texts(
        self, policy: ModelRef, drafter: ModelRef | None, requests: Sequence[TextRequest],
        speculation: Speculation,
    ) -> Any:  # fmt: skip
        return self.call("policy", "drafted_texts", policy, drafter, requests, speculation)

    def health(self) -> dict[str, dict[str, Any]]:
        """State, pid and number of restarts of each actor; a silent one is `unreachable`."""
        pending = {role: h.actor.health.remote() for role, h in self._handles.items()}
        report: dict[str, dict[str, Any]] = {}
        for role, future in pending.items():
            handle = self._handles[role]
            try:
                handle.last = self._ray.get(future, timeout=5)
                if handle.pid and handle.last["pid"] != handle.pid:
                    handle.restarts += 1
                handle.pid = handle.last["pid"]
                report[role] = handle.last | {"state": "alive", "restarts": handle.restarts}
            except self._ray.exceptions.RayError:
                report[role] = handle.last | {
                    "role": role, "pid": handle.pid, "state": "unreachable",
                    "restarts": handle.restarts,
                }  # fmt: skip
        return report

    def close(self) -> None:
        """Stop the actors, and the cluster if this process started it."""
        for handle in self._handles.values():
            self._ray.kill(handle.actor, no_restart=True)
        if self.owns_cluster:
            self._ray.shutdown()


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
