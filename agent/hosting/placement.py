"""Which actor holds which roles on which GPU, and what part of a GPU a training job reserves: by
what each takes of the memory and does of the work.

Actors give their GPUs back before a training, so that the two never have to fit beside each other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.checkpoints.model_refs import ROLES
from agent.engine.job_cache import GPU_SHARE
from search.errors import ResourceError

CONTEXT_BYTES = 2**30
"""Of CUDA itself, its libraries' workspaces and memory that lies between tensors; a process's."""
FULL = 0.92
"""Of a GPU's memory that a plan may fill."""
WORK = {"policy": 4.0, "drafter": 0.5}
"""What a role has to do, against a critic: in a search on a CPU the policy was at work for .82 of
the time, critics for .14 and .15 (LOG.md)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What hosted models take of a GPU."""

    weight_bytes: int = 0
    """Of a role with weights of its own; 0 where nobody knows, and all is taken to fit."""
    has_one_base: bool = False
    """Whether the roles are adapters, which in one process share what they are put on."""

    def bytes_of(self, roles: Sequence[str], gpu_bytes: int = 0) -> int:
        """Of these roles as processes of their own on such a GPU, with what each reserves for keys
        and values; a drafter has half of the policy's blocks."""
        if not self.weight_bytes:
            return 0
        beside = CONTEXT_BYTES + gpu_bytes // GPU_SHARE
        return sum(
            (self.weight_bytes // 2 if role == "drafter" else self.weight_bytes) + beside
            for role in map(_kind, roles)
        )


@dataclass(frozen=True, slots=True)
class ActorPlace:
    """An actor: what it hosts, and where."""

    roles: tuple[str, ...]
    gpu: int | None = None
    """Of those that are reserved, counted from 0; None on a CPU."""
    part: float = 0.0
    """Of that GPU."""

    @property
    def name(self) -> str:
        return self.roles[0]


def hosted_roles(workers: int) -> list[str]:
    """What a run's actors host, with as many policies."""
    return [*ROLES, *(f"policy-{i}" for i in range(1, workers))]


def actor_places(
    roles: Sequence[str], gpus: int, gpu_bytes: int, needs: Needs
) -> tuple[ActorPlace, ...]:
    """Actors that host `roles`, among them further policies as policy-1 and so on.

    Without GPUs an actor each. With them, an actor each on the GPU with the least to do, as long as
    what lies together there fits its `gpu_bytes` (0: not known); else all but the further policies
    in one actor, where they have one base. Raises ResourceError where neither fits.
    """
    if not gpus:
        return tuple(ActorPlace((role,)) for role in roles)
    for weights in (WORK, {}):
        dealt = _dealt(roles, gpus, weights)
        if all(_fits(needs.bytes_of(those, gpu_bytes), gpu_bytes) for those in dealt):
            return tuple(
                ActorPlace((role,), gpu, part_of(len(those)))
                for gpu, those in enumerate(dealt)
                for role in those
            )
    first = [role for role in roles if _kind(role) == role]
    more = [role for role in roles if role not in first]
    one = needs.bytes_of(["policy"], gpu_bytes) + (len(first) - 1) * (gpu_bytes // GPU_SHARE)
    if needs.has_one_base and len(more) < gpus and _fits(one, gpu_bytes):
        return (
            ActorPlace(tuple(first), 0, 1.0),
            *(ActorPlace((role,), gpu, 1.0) for gpu, role in enumerate(more, start=1)),
        )
    fix = "use larger GPUs or more of them, or a smaller model"
    if more:
        fix += ", or fewer hosting.workers"
    if not needs.has_one_base:
        fix += ", or adapters, which share one base: --set training.lora_rank=16"
    raise ResourceError(
        f"{len(roles)} models of {needs.weight_bytes / 2**30:,.1f} GiB do not fit {gpus} GPUs of "
        f"{gpu_bytes / 2**30:,.1f} GiB",
        fix,
    )


def job_part(num_jobs: int, num_bytes: int, gpus: int, gpu_bytes: int) -> float:
    """Part of a GPU that each of `num_jobs` trainings reserves: all at once where jobs of
    `num_bytes` fit so, else as many at once as fit, and the others wait. 0 without GPUs."""
    if not gpus:
        return 0.0
    together = max(1, math.ceil(num_jobs / gpus))
    while together > 1 and not _fits(together * (num_bytes + CONTEXT_BYTES), gpu_bytes):
        together -= 1
    return part_of(together)


def part_of(num: int) -> float:
    """Ray counts in ten thousandths of a GPU; rounding down keeps `num` parts within one."""
    return math.floor(10_000 / num) / 10_000


def _dealt(
    roles: Sequence[str], gpus: int, weights: dict[str, float]
) -> tuple[tuple[str, ...], ...]:
    """Roles by GPU: the one with the most to do first, each where there is the least."""
    dealt: list[list[str]] = [[] for _ in range(min(gpus, len(roles)))]
    load = [0.0] * len(dealt)
    for role in sorted(roles, key=lambda role: -weights.get(_kind(role), 1.0)):
        least = min(range(len(dealt)), key=lambda gpu: (load[gpu], len(dealt[gpu]), gpu))
        dealt[least].append(role)
        load[least] += weights.get(_kind(role), 1.0)
    return tuple(tuple(those) for those in dealt)


def _kind(role: str) -> str:
    return role.partition("-")[0]


def _fits(num_bytes: int, gpu_bytes: int) -> bool:
    return not gpu_bytes or num_bytes <= FULL * gpu_bytes
