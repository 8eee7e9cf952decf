"""The models as Ray actors, one a role.

A call that finds its actor dead waits for the restart that Ray makes and is sent again as it was;
hosts are idempotent, so nothing is done twice with effect.
"""

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent import signals
from agent.checkpoints.model_refs import ModelRef
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
from agent.hosting.placement import ActorPlace, Needs, actor_places, hosted_roles
from agent.hosting.policy_host import PolicyHost, Speculation
from agent.hosting.ray_gpus import GpuReservation, free_gpus, gpu_bytes, num_gpus
from agent.networks import shared_blocks
from agent.networks.shared_blocks import SharedBlocks
from agent.scratch import scratch_folder
from search.errors import ResourceError, UsageError
from store.states import ActorState

HEALTH_S = 5.0
"""How long actors may take to say how they are."""
RECOVERY_S = 180.0
MAX_DEATHS = 20

log = logging.getLogger("ratchet")


def _check_reachable(address: str) -> None:
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
    # A job that Ray runs on a cluster finds the cluster in its environment.
    address = address or os.environ.get("RAY_ADDRESS", "")
    if not address:
        # Ray's own word for a cluster of one machine: every port of it binds to 127.0.0.1.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {
        "namespace": "ratchet",
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if address:
        try:
            _check_reachable(address)
            with signals.kept():
                ray.init(address=address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"no Ray cluster answers at {address!r}: {str(error).splitlines()[0]}",
                "start one with `ray start --head`, or leave --ray-address out",
            ) from error
        return False
    try:
        with signals.kept():
            ray.init(address="local", include_dashboard=False, **quiet)
    except (RuntimeError, OSError) as error:
        raise ResourceError(
            f"the local Ray cluster did not start: {str(error).splitlines()[0]}",
            "free some memory and disk under /tmp, or use --hosting inline",
        ) from error
    _close_token()
    return True


def _close_token() -> None:
    """Ray writes the token that opens its cluster for all users of the machine to read."""
    token = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):
        if token.stat().st_uid == os.getuid():
            token.chmod(0o600)


def _host_of(role: str, settings: HostSettings, shared: SharedBlocks | None) -> Host:
    kinds: dict[str, type[Host]] = {"policy": PolicyHost, "drafter": GeneratorHost}
    return kinds.get(role, CriticHost)(role, settings, shared)


class _Actor:
    """What runs in a Ray actor: one host, or all, which then hold the base of their adapters once.
    Decorated at the edge, in `RayHosts`."""

    def __init__(self, roles: Sequence[str], settings: HostSettings) -> None:
        kinds = [role.partition("-")[0] for role in roles]
        shared = SharedBlocks() if len(roles) > 1 else None
        self.hosts = {kind: _host_of(kind, settings, shared) for kind in kinds}

    def run(self, role: str, method: str, *arguments: Any) -> Any:
        return getattr(self.hosts[role], method)(*arguments)

    def release(self) -> None:
        for host in self.hosts.values():
            host.release()

    def drafted_completions(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[CompletionRequest],
        speculation: Speculation,
        drafter_actor: Any,
    ) -> Any:
        import ray

        def draft(*arguments: Any) -> list[list[int]]:
            if "drafter" in self.hosts:
                return self.run("drafter", "draft", *arguments)
            try:
                asked = drafter_actor.run.remote("drafter", "draft", *arguments)
                found: list[list[int]] = ray.get(asked)
                return found
            except ray.exceptions.RayActorError:
                # Without drafts the policy writes the same tokens, only one at a time.
                return [[] for _ in arguments[1]]

        host = self.hosts["policy"]
        assert isinstance(host, PolicyHost)
        return host.drafted_completions(policy, drafter, requests, speculation, draft)

    def health(self) -> dict[str, Any]:
        """Its process, and by role what the host says of itself."""
        return {
            "pid": os.getpid(),
            "hosts": {role: host.health() for role, host in self.hosts.items()},
        }


@dataclass(slots=True)
class _Handle:
    place: ActorPlace
    actor: Any
    pid: int = 0
    restarts: int = 0
    num_waiting: int = 0
    """Calls sent to it and not answered yet."""
    last: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What its hosts said of themselves."""

    def serves(self, role: str) -> bool:
        return role in {hosted.partition("-")[0] for hosted in self.place.roles}


class RayHosts:
    """One actor a role, several of the policy if so set, or one of all roles on one base where GPUs
    hold no more (`actor_places`); restarted by Ray when they die."""

    def __init__(
        self, settings: HostSettings, address: str = "", needs: Needs | None = None
    ) -> None:
        """`needs`: what the models take of a GPU. Raises ResourceError where they do not fit."""
        self.owns_cluster = start_ray(address)
        import ray

        self._ray = ray
        self._scratch = contextlib.ExitStack()
        self._shared = self._scratch.enter_context(scratch_folder("weights"))
        self._settings = replace(settings, shared_folder=str(self._shared))
        self._reserved: GpuReservation | None = None
        self._choosing = threading.Lock()
        self._handles: dict[str, _Handle] = {}
        try:
            gpus = num_gpus(settings.device)
            size = gpu_bytes() if gpus else 0
            roles = hosted_roles(settings.workers)
            self._places = actor_places(roles, free_gpus(gpus), size, needs or Needs())
            self._start(is_first=True)
        except BaseException:
            self.close()
            raise

    def _start(self, is_first: bool = False) -> None:
        """Make the actors."""
        settings, ray = self._settings, self._ray
        if self._reserved is not None:  # of a start that failed half way
            self._reserved.close()
        self._reserved = reserved = GpuReservation(self._places, is_first)
        threads = str(settings.threads)
        # Health answers from a thread of its own, however long a model call takes.
        setattr(_Actor, "health", ray.method(concurrency_group="health")(_Actor.health))  # noqa: B010
        remote = ray.remote(
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            concurrency_groups={"health": 1},
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        )(_Actor)
        self._handles = {
            place.name: _Handle(
                place, remote.options(**reserved.options(place)).remote(place.roles, settings)
            )
            for place in self._places
        }

    def _worker(self, role: str) -> _Handle:
        """The host that serves a call: of several policies the one with the fewest waiting."""
        if not self._handles:  # they made room for a training
            self._start()
        serving = [h for h in self._handles.values() if h.serves(role)]
        return min(serving, key=lambda h: h.num_waiting)

    def _send(self, worker: _Handle, role: str, method: str, arguments: tuple[Any, ...]) -> Any:
        if method == "release":
            return worker.actor.release.remote()
        if method == "drafted_completions":
            drafter = next(h.actor for h in self._handles.values() if h.serves("drafter"))
            own = worker.serves("drafter")
            return worker.actor.drafted_completions.remote(*arguments, None if own else drafter)
        return worker.actor.run.remote(role, method, *arguments)

    def load(self, ref: ModelRef) -> None:
        self._call(host_of(ref.role), "load", ref)

    def options(self, policy: ModelRef, requests: Sequence[OptionRequest]) -> list[Options]:
        found: list[Options] = self._call("policy", "options", policy, requests)
        return found

    def completions(
        self, policy: ModelRef, requests: Sequence[CompletionRequest]
    ) -> list[Completion]:
        found: list[Completion] = self._call("policy", "completions", policy, requests)
        return found

    def drafted_completions(
        self,
        policy: ModelRef,
        drafter: ModelRef | None,
        requests: Sequence[CompletionRequest],
        speculation: Speculation,
    ) -> list[Completion]:
        arguments = (policy, drafter, requests, speculation)
        found: list[Completion] = self._call("policy", "drafted_completions", *arguments)
        return found

    def logprobs(
        self, policy: ModelRef, requests: Sequence[ScoreRequest]
    ) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = self._call("policy", "logprobs", policy, requests)
        return found

    def likeliest(
        self, policy: ModelRef, requests: Sequence[ScoreRequest], num: int
    ) -> list[Likeliest]:
        found: list[Likeliest] = self._call("policy", "likeliest", policy, requests, num)
        return found

    def critic_logits(self, asked: Asked) -> dict[str, list[float]]:
        answers = self._call_many([(role, "logits", given) for role, given in asked.items()])
        return dict(zip(asked, answers, strict=True))

    def _call(self, role: str, method: str, *arguments: Any) -> Any:
        return self._call_many([(role, method, arguments)])[0]

    def _call_many(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        """Answers of several hosts at once, in order."""
        workers: list[_Handle] = []
        with self._choosing:
            for role, _, _ in calls:
                workers.append(self._worker(role))
                workers[-1].num_waiting += 1
        try:
            sent = [self._send(w, *call) for w, call in zip(workers, calls, strict=True)]
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
                pending = self._send(worker, *call)

    def release(self) -> None:
        if any(place.gpu is not None for place in self._places):
            # Ray takes a reservation back from a dead actor alone.
            with self._choosing:
                handles, self._handles = self._handles, {}
            for handle in handles.values():
                self._ray.kill(handle.actor, no_restart=True)
            if self._reserved is not None:
                self._reserved.close()
        for name, worker in self._handles.items():
            call = (name, "release", ())
            self._wait(worker, call, self._send(worker, *call))
        shared_blocks.clear(self._shared)  # those of replaced models would pile up

    def gpus(self) -> dict[str, int]:
        return {
            role: place.gpu
            for place in self._places
            if place.gpu is not None
            for role in place.roles
        }

    def health(self) -> dict[str, dict[str, Any]]:
        """State, pid and number of restarts of each actor; a silent one is `unreachable`."""
        handles = dict(self._handles)
        report: dict[str, dict[str, Any]] = {}
        if not handles:  # they made room for a training
            away = {"pid": 0, "state": ActorState.STOPPED, "restarts": 0}
            return {role: dict(away) for place in self._places for role in place.roles}
        pending = {name: h.actor.health.remote() for name, h in handles.items()}
        # One wait for all: silent actors must not add up to a lease's length.
        if pending:
            self._ray.wait(list(pending.values()), num_returns=len(pending), timeout=HEALTH_S)
        for name, future in pending.items():
            handle = handles[name]
            try:
                found = self._ray.get(future, timeout=0)
                handle.last = found["hosts"]
                handle.restarts += bool(handle.pid and found["pid"] != handle.pid)
                handle.pid = found["pid"]
                state = ActorState.ALIVE
            except self._ray.exceptions.RayError:
                state = ActorState.UNREACHABLE
            own = {"pid": handle.pid, "state": state, "restarts": handle.restarts}
            for role in handle.place.roles:
                report[role] = handle.last.get(role.partition("-")[0], {}) | own
        return report

    def close(self) -> None:
        """Stop the actors, and the cluster if this process started it."""
        for handle in self._handles.values():
            self._ray.kill(handle.actor, no_restart=True)
        if self._reserved is not None and not self.owns_cluster:
            self._reserved.close()
        self._scratch.close()
        if self.owns_cluster:
            self._ray.shutdown()
