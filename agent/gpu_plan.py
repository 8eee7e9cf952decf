"""What training and serving a model would take of GPUs, in memory and time, before any is there.

Memory follows from what our loop holds, number by number; two peaks measured on a GPU stand beside
what the plan says of them in docs/gpus.md. Time follows from what such cards reached with other
models, and is no more than an estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from agent.checkpoints.header import Header
from agent.checkpoints.publish import dtype_on_disk
from agent.config.settings import PolicyTraining
from agent.hosting.placement import CONTEXT_BYTES, FULL
from agent.networks.architecture import Architecture
from agent.networks.shapes import adapter_size, parameter_shapes
from agent.training.job_memory import GPU_LOGIT_BYTES
from agent.training.optimizer import BYTES_TRAINED, GPU_ACTIVATION_BYTES, MICRO_TOKENS
from search.errors import ResourceError

BEST_BYTES = 4
"""Of a trained number: the best weights so far, where texts are set aside to stop early by."""
TRAINING_SHARE = 0.5
"""Of the card's large products that training reaches; measured .53 with 1.2 billion parameters and
.17 with 135 million."""
DECODING_SHARE = 1 / 3
"""Of the card's bandwidth that decoding 256 texts reaches; measured .33 with 1.2 billion parameters
and .16 with 135 million."""
SEARCHED_TOKENS = 2_500.0
"""That searches write a second beside one policy host, whatever the card: the host's own work on
trees and critics takes as long. Measured with 135 million parameters."""
LINK = 3e11
"""Bytes a second between GPUs of one machine that sharded training reaches; not measured."""


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    num_bytes: int
    flops: float
    """Of a large product in bfloat16, a second."""
    bandwidth: float
    """Bytes a second of a large copy."""


GPUS = {
    "h200": Gpu("H200", 139 * 2**30, 6.84e14, 4.1e12),
    "h100": Gpu("H100", 78 * 2**30, 6.84e14, 2.9e12),
}
"""Both figures were measured on an H200; an H100 has the same multiprocessors and 70 % of the
bandwidth by its maker's word."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be trained."""

    text_tokens: int
    """Of a row, prompt and answer."""
    batch_size: int
    """Rows a step, of all GPUs together."""
    lora_rank: int = 16
    """Of the way that trains adapters."""
    base_itemsize: int = 2
    """Bytes of a number that adapters are put on."""
    has_reference: bool = False
    """Whether all weights train beside a copy of where they began (`training.method` but sft)."""

    DEFAULT_RANK: ClassVar[int] = 16


@dataclass(frozen=True, slots=True)
class Way:
    """One way to train, on each GPU."""

    name: str
    settings: tuple[str, ...]
    """What chooses it, each KEY=VALUE."""
    parts: dict[str, int]
    """Bytes by what takes them."""
    fits: bool
    is_checkpointed: bool
    """Whether blocks are computed again for the backward pass."""
    step_s: float

    @property
    def num_bytes(self) -> int:
        return sum(self.parts.values())


def num_parameters(arch: Architecture) -> int:
    return sum(prod(shape) for shape in parameter_shapes(arch, False).values())


def training_ways(arch: Architecture, gpu: Gpu, num_gpus: int, work: Work) -> list[Way]:
    """All weights on each GPU, all weights shared by them, adapters on a base that each GPU has."""
    ways = [_whole(arch, gpu, num_gpus, work)]
    if num_gpus > 1:
        ways.append(_sharded(arch, gpu, num_gpus, work))
    # A network that reads pictures takes no adapters (`training.recipe.check_adapters`).
    return ways if arch.vision else [*ways, _adapters(arch, gpu, num_gpus, work)]


def _whole(arch: Architecture, gpu: Gpu, num_gpus: int, work: Work) -> Way:
    size = num_parameters(arch)
    parts = {"weights, gradients, moments": BYTES_TRAINED * size, "best so far": BEST_BYTES * size}
    name = "all weights, a copy on each GPU" if num_gpus > 1 else "all weights"
    chosen = ("training.sharding=never",)
    return _way(name, chosen, parts, 6 * size, arch, gpu, num_gpus, work)


def _sharded(arch: Architecture, gpu: Gpu, num_gpus: int, work: Work) -> Way:
    size, outer = num_parameters(arch), _outer_size(arch)
    block = (size - outer) / arch.num_layers
    parts = {
        "weights, gradients, moments": round(BYTES_TRAINED * size / num_gpus),
        "best so far": round(BEST_BYTES * size / num_gpus),
        # Two blocks in turn; embeddings and head all the time, and their gradient.
        "made whole": round(4 * 2 * block + 2 * 4 * outer),
    }
    name = f"all weights, shared by {num_gpus} GPUs"
    way = _way(name, (), parts, 6 * size, arch, gpu, num_gpus, work)
    # Each pass gathers the weights, the backward pass twice where it computes blocks again, and
    # sends the gradients.
    sent = 4 * size * (4 if way.is_checkpointed else 3) / LINK
    return replace(way, step_s=way.step_s + sent)


def _adapters(arch: Architecture, gpu: Gpu, num_gpus: int, work: Work) -> Way:
    size, own = num_parameters(arch), adapter_size(arch, work.lora_rank)
    parts = {
        "base": work.base_itemsize * size,
        "weights, gradients, moments": BYTES_TRAINED * own,
        "best so far": BEST_BYTES * own,
    }
    name = f"adapters of rank {work.lora_rank}"
    chosen = (f"training.lora_rank={work.lora_rank}",)
    return _way(name, chosen, parts, 4 * size, arch, gpu, num_gpus, work)


def _way(
    name: str,
    chosen: tuple[str, ...],
    parts: dict[str, int],
    flops: float,
    arch: Architecture,
    gpu: Gpu,
    num_gpus: int,
    work: Work,
) -> Way:
    """With what is beside the weights: as many tokens at once as half of the room that is left
    holds (`fit._micro_tokens`), and computed again where not even the least number fits."""
    if "base" not in parts:  # of a base the products use the weights themselves
        if work.has_reference:
            parts = parts | {"reference": 4 * num_parameters(arch)}
        parts = parts | {"copies for products": 2 * num_parameters(arch)}
    room = max(0, gpu.num_bytes - sum(parts.values()))
    token = arch.num_layers * arch.hidden_size * GPU_ACTIVATION_BYTES
    rows = -(-work.batch_size // num_gpus)
    at_once = min(rows * work.text_tokens, max(MICRO_TOKENS, room // 2 // token))
    at_once = max(at_once, work.text_tokens)
    is_checkpointed = at_once * token > room // 2
    if is_checkpointed:
        token = arch.hidden_size * (4 * arch.num_layers + GPU_ACTIVATION_BYTES)
        flops *= 4 / 3 if flops > 4 * num_parameters(arch) else 3 / 2
        parts = {name: num for name, num in parts.items() if name != "copies for products"}
    parts = parts | {
        "activations": at_once * token,
        "logits": min(GPU_LOGIT_BYTES, at_once * arch.vocab_size * 9),
        "CUDA": CONTEXT_BYTES,
    }
    fits = sum(parts.values()) <= FULL * gpu.num_bytes
    step_s = rows * work.text_tokens * flops / (TRAINING_SHARE * gpu.flops)
    if num_gpus > 1:
        chosen = (f"hosting.training_workers={num_gpus}", *chosen)
    return Way(name, chosen, parts, fits, is_checkpointed, step_s)


def _outer_size(arch: Architecture) -> int:
    """Numbers outside of the blocks: embeddings, a head of their own, a tower for pictures."""
    tower = num_parameters(arch) - num_parameters(arch.language)
    return arch.vocab_size * arch.hidden_size * (1 if arch.is_tied else 2) + tower


@dataclass(frozen=True, slots=True)
class Serving:
    """What a GPU that serves the policy holds, and does."""

    weight_bytes: int
    """The head's own layout among them."""
    kv_bytes: int
    """Of a token's keys and values."""
    cached_tokens: int
    """That fit beside the weights."""
    five_copies_bytes: int
    """Policy, drafter and three critics, each with weights of its own."""
    five_adapters_bytes: int
    """The same as adapters on one base, in one process."""
    written_per_s: float
    """Tokens that 256 texts together grow by, a second."""
    searched_per_s: float
    """Tokens a second of searches beside one policy host."""


def serving(arch: Architecture, gpu: Gpu, work: Work) -> Serving:
    size, own = num_parameters(arch), adapter_size(arch, work.lora_rank)
    if arch.is_tied:  # laid out, embeddings and head are two
        size += arch.vocab_size * arch.hidden_size
    kv_bytes = arch.num_layers * arch.kept_bytes
    cached = max(0.0, FULL * gpu.num_bytes - CONTEXT_BYTES - 2 * size) / kv_bytes
    texts = min(256, int(cached // work.text_tokens))
    read = 2 * size + texts * work.text_tokens / 2 * kv_bytes
    written = texts * gpu.bandwidth * DECODING_SHARE / read
    half = _outer_size(arch) + (size - _outer_size(arch)) // 2
    return Serving(
        weight_bytes=2 * size,
        kv_bytes=kv_bytes,
        cached_tokens=int(cached),
        five_copies_bytes=2 * (4 * size + half),
        five_adapters_bytes=2 * size + 2 * 5 * own,
        written_per_s=written,
        searched_per_s=min(written / 2, SEARCHED_TOKENS),
    )


def way_of(
    arch: Architecture, gpu: Gpu, num_gpus: int, work: Work, training: PolicyTraining
) -> Way:
    """The way that settings choose."""
    if training.lora_rank:
        work = replace(work, lora_rank=training.lora_rank)
        return _adapters(arch, gpu, num_gpus, work)
    if num_gpus > 1 and training.sharding != "never" and training.optimizer != "muon":
        return _sharded(arch, gpu, num_gpus, work)
    return _whole(arch, gpu, num_gpus, work)


def check_fits(
    policy: Header, gpu: Gpu, num_here: int, num_used: int, training: PolicyTraining
) -> None:
    """Raises ResourceError, with the nearest plan that fits, where a policy's training takes more
    than GPUs of this kind have.

    `num_here` of them there are, `num_used` train together. Asked for the shortest texts: longer
    ones are computed in more parts.
    """
    arch = policy.architecture
    work = Work(
        MICRO_TOKENS,
        num_used,
        training.lora_rank or Work.DEFAULT_RANK,
        base_itemsize=dtype_on_disk(policy).itemsize,
        has_reference=training.method != "sft",
    )
    way = way_of(arch, gpu, num_used, work, training)
    if way.fits:
        return
    fix = "use a smaller model"
    is_shareable = training.method == "sft" and training.optimizer != "muon"
    if (nearest := nearest_fit(arch, gpu, num_here, work, is_shareable=is_shareable)) is not None:
        needed, other = nearest
        fix = f"{other.name} fit"
        fix += "" if needed == num_here else f" on {needed} such GPUs"
        fix += ":" + "".join(f" --set {setting}" for setting in other.settings)
    raise ResourceError(
        f"{policy.path} has {policy.num_parameters:,} parameters; to train {way.name} takes "
        f"{way.num_bytes / 2**30:,.1f} GiB of each GPU, and {gpu.name} has "
        f"{gpu.num_bytes / 2**30:,.1f}",
        fix,
    )


def check_served(policy: Header, gpu: Gpu, training: PolicyTraining) -> None:
    """Raises ResourceError where a GPU cannot hold what one process is to serve: five roles."""
    rank = training.lora_rank
    found = serving(policy.architecture, gpu, Work(MICRO_TOKENS, 1, rank or Work.DEFAULT_RANK))
    needed, what = found.five_copies_bytes, "five roles with weights of their own"
    if rank:
        needed, what = found.five_adapters_bytes, "five roles as adapters"
    if needed + CONTEXT_BYTES <= FULL * gpu.num_bytes:
        return
    fix = "use a larger GPU, or a smaller model"
    if not rank:
        fix += ", or adapters: --set training.lora_rank=16"
    raise ResourceError(
        f"{policy.path} has {policy.num_parameters:,} parameters; to serve {what} takes "
        f"{needed / 2**30:,.1f} GiB, and {gpu.name} has {gpu.num_bytes / 2**30:,.1f}",
        fix,
    )


def nearest_fit(
    arch: Architecture,
    gpu: Gpu,
    num_gpus: int,
    work: Work,
    most_gpus: int = 1_024,
    is_shareable: bool = True,
) -> tuple[int, Way] | None:
    """(GPUs, way) of the first way that fits, with as many more GPUs as it takes; None where
    none does. `is_shareable`: whether the training can be shared by several GPUs at all."""
    while num_gpus <= most_gpus:
        ways = training_ways(arch, gpu, num_gpus if is_shareable else 1, work)
        fitting = first_fit(ways)
        if fitting is not None:
            return num_gpus, fitting
        num_gpus *= 2
    return None


def first_fit(ways: Sequence[Way]) -> Way | None:
    return next((way for way in ways if way.fits), None)
