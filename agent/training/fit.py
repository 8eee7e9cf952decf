"""The loop that every training job on stored rows shares: batches, steps, looks, progress."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from agent.networks.device import LARGE, chosen_dtype, gpu_bytes
from agent.networks.language_model import LanguageModel
from agent.training.early_stop import Snapshot
from agent.training.examples import batches, stretched_positions
from agent.training.optimizer import (
    ACTIVATION_BYTES,
    BYTES_TRAINED,
    GPU_ACTIVATION_BYTES,
    MICRO_TOKENS,
    Optimizer,
    TrainingSettings,
)
from agent.training.ranks import add_gradients, least, rank, rows_of, total, world_size
from agent.training.resume import Resume
from agent.training.sharding import is_sharded
from search.errors import RatchetError

T = TypeVar("T")
LOOK_ROWS = 64
OnStep = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, mean loss of the last steps)."""


class DivergedError(RatchetError):
    """The loss is no number any more."""


def planned_steps(num_examples: int, settings: TrainingSettings) -> int:
    """Steps to take: as set, but no more than `max_epochs` passes over the examples."""
    most = math.ceil(settings.max_epochs * num_examples / settings.batch_size)
    return max(1, min(settings.num_steps, most))


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step learns from."""

    rows: list[int]
    """This rank's rows."""
    all_rows: list[int]
    """Those of every rank."""
    positions_BT: Tensor | None
    """Random positions of this rank's rows; None for 0, 1, 2, ..."""


@dataclass(frozen=True, slots=True)
class FitPlan:
    """Which rows are seen when, and how the weights follow."""

    lengths: Sequence[int]
    """Tokens of each row."""
    batch_size: int
    num_steps: int
    settings: TrainingSettings
    seed: int
    is_additive: bool = False
    """Whether the loss of a batch is the sum of those of its rows: then it may be lowered a part of
    the rows at a time, within the memory of `micro_tokens`."""
    resume: Resume | None = None
    """Where the state is kept, to go on after a kill; None: nowhere."""


def fit(
    model: LanguageModel,
    plan: FitPlan,
    loss_of: Callable[[Batch], Tensor],
    progress: OnStep | None = None,
    snapshot: Snapshot | None = None,
    after_step: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Lower a loss in place and return it step by step; the snapshot's weights are restored.

    `loss_of` gives this rank's share of a batch's loss. The same arguments give the same weights.
    Raises DivergedError when the loss stops being finite; the model is then of no use.
    """
    lengths, settings, num_steps, seed = plan.lengths, plan.settings, plan.num_steps, plan.seed
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    optimizer = Optimizer(model, settings, num_steps)
    dtype = product_dtype(model, settings)
    usual = _micro_tokens(model)
    # Ranks go through as many runs each and decide alike, whatever memory each of them has.
    most_tokens = int(least((settings.micro_tokens or usual) if plan.is_additive else 0))
    is_roomy = not needs_checkpoints(model, _at_once(plan, most_tokens))
    model.is_checkpointed = least(is_roomy) == 0
    losses = plan.resume.load(model, optimizer, snapshot) if plan.resume else []
    taken = len(losses)
    model.train()
    for step, rows in enumerate(batches(lengths, plan.batch_size, num_steps, rng), 1):
        positions = None
        if settings.position_span:
            longest = max(lengths[i] for i in rows)
            positions = stretched_positions(len(rows), longest, settings.position_span, generator)
        if step <= taken:  # before the process was killed
            continue
        own = 0.0
        for places, weight in _parts([lengths[i] for i in rows], most_tokens, is_sharded(model)):
            part = [rows[place] for place in places]
            if positions is not None:
                longest = max(lengths[i] for i in part)
                batch = Batch(part, rows, positions[places, :longest])
            else:
                batch = Batch(part, rows, None)
            with products_in(dtype, model.device):
                loss = loss_of(batch) if weight == 1 else loss_of(batch) * weight
            # Shards average gradients over the ranks, and the sum is wanted.
            (loss * world_size() if is_sharded(model) else loss).backward()
            own += float(loss.detach())
        if not is_sharded(model):
            add_gradients(optimizer.parameters)
        optimizer.step(step - 1)
        losses.append(total(own))
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"the loss became {losses[-1]} at step {step} of {num_steps}",
                "lower training.learning_rate",
            )
        if progress is not None and (step % 10 == 0 or step == num_steps):
            progress(step, num_steps, sum(losses[-10:]) / len(losses[-10:]))
        if snapshot is not None:
            snapshot.after(step, num_steps)
        after_step(step)
        if plan.resume is not None:
            plan.resume.save(model, optimizer, snapshot, losses)
    if snapshot is not None:
        snapshot.restore()
    model.eval()
    model.is_checkpointed = False
    return losses


def _at_once(plan: FitPlan, most_tokens: int) -> int:
    """Tokens whose activations may be in memory together."""
    longest = max(plan.lengths, default=0)
    return max(most_tokens, longest) if most_tokens else plan.batch_size * longest


def needs_checkpoints(model: LanguageModel, num_tokens: int) -> bool:
    """Whether what so many tokens leave for the backward pass would take more memory than weights,
    gradients and the optimiser's state do, or on a GPU than it has beside them."""
    most = held_bytes(model) if model.device.type != "cuda" else _gpu_room(model)
    return num_parameters(model) >= LARGE and num_tokens * _token_bytes(model) > most


def _token_bytes(model: LanguageModel) -> int:
    """What a token leaves for the backward pass."""
    arch = model.arch
    each = GPU_ACTIVATION_BYTES if model.device.type == "cuda" else ACTIVATION_BYTES
    per_layer = int(arch.hidden_size * each * arch.activation_scale)
    return (arch.num_layers - model.num_frozen) * per_layer


def _gpu_room(model: LanguageModel) -> int:
    """Bytes for activations: half of what this process may use beside the weights, their copies in
    the products' type and, of a sharded model, what is whole at a time."""
    taken = held_bytes(model) + _copied_bytes(model)
    return max(0, gpu_bytes(model.device) - taken) // 2


def _copied_bytes(model: LanguageModel) -> int:
    copies = 2 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not is_sharded(model):
        return copies
    num_layers = model.arch.num_layers
    outer = sum(
        p.numel() for n, p in model.named_parameters() if not 0 <= model.block_of(n) < num_layers
    )
    block = (num_parameters(model) - outer) // num_layers
    # Two blocks in turn; embeddings and head with their gradient.
    return copies + 4 * 2 * (block + outer)


def held_bytes(model: LanguageModel) -> int:
    """Of this process's weights and, where they train, of gradients and the optimiser's state."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    return frozen + trained * BYTES_TRAINED // (world_size() if is_sharded(model) else 1)


def _micro_tokens(model: LanguageModel) -> int:
    """Tokens whose activations are in memory together where nothing is set; 0: all of a batch. On a
    GPU that others use, what is free decides, and with it how the sum of a batch is rounded."""
    if num_parameters(model) < LARGE:
        return 0
    if model.device.type != "cuda":
        return MICRO_TOKENS
    return max(MICRO_TOKENS, _gpu_room(model) // _token_bytes(model))


def num_parameters(model: LanguageModel) -> int:
    return sum(p.numel() for p in model.parameters())


def product_dtype(model: LanguageModel, settings: TrainingSettings) -> torch.dtype:
    """What the products of a model's training are made in; `auto` leaves small models in float32
    on any device, for their recipes are tuned to it."""
    return training_dtype(settings, model.device.type, num_parameters(model))


def training_dtype(settings: TrainingSettings, device: str, size: int) -> torch.dtype:
    """The same of a model of so many parameters that is not loaded yet."""
    name = "float32" if settings.dtype == "auto" and size < LARGE else settings.dtype
    return chosen_dtype(name, device, size)


@contextlib.contextmanager
def products_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Products of this type and all else in float32, for as long as the block. A weight's copy in
    that type goes when its own product is done: kept, those of all weights would be there at once.
    """
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        yield


def measured_in(
    model: LanguageModel, settings: TrainingSettings, measure: Callable[[], T]
) -> Callable[[], T]:
    """The measure, its products made in the type of the model's training."""

    def run() -> T:
        with products_in(product_dtype(model, settings), model.device):
            return measure()

    return run


def _parts(
    lengths: Sequence[int], most_tokens: int, is_together: bool
) -> list[tuple[list[int], float]]:
    """This rank's places of a batch in runs that fit into memory, and what each counts.

    Ranks that share weights go through as many runs each, for every forward pass is all of them at
    work: who has fewer goes through a row of the batch again, which counts nothing.
    """
    every = []
    for one in range(world_size()):
        places = rows_of(range(len(lengths)), one)
        runs = _micro_batches([lengths[i] for i in places], most_tokens)
        every.append([places[start:end] for start, end in runs])
    found = [(run, 1.0) for run in every[rank()]]
    if is_together:
        found += [([0], 0.0)] * (max(map(len, every)) - len(found))
    return found


def looked_at_once(lengths: Sequence[int], model: LanguageModel) -> Iterator[tuple[int, int]]:
    """Runs (start, end) of rows that a look without learning takes together: of a large model as
    many tokens as it learns from at once, of a small one `LOOK_ROWS` rows."""
    if most_tokens := _micro_tokens(model):
        yield from _micro_batches(lengths, most_tokens)
        return
    for start in range(0, len(lengths), LOOK_ROWS):
        yield start, min(start + LOOK_ROWS, len(lengths))


def _micro_batches(lengths: Sequence[int], most_tokens: int) -> Iterator[tuple[int, int]]:
    """Runs (start, end) of rows that have at most so many tokens when padded; 0: all of them."""
    start = longest = 0
    for i, length in enumerate(lengths):
        longest = max(longest, length)
        if most_tokens and i > start and longest * (i + 1 - start) > most_tokens:
            yield start, i
            start, longest = i, length
    if lengths:
        yield start, len(lengths)


def ends_of(losses: Sequence[float]) -> tuple[float, float]:
    """Mean loss over the first and over the last tenth of the steps."""
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
