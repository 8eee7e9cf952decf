"""The loop that every training job on stored rows shares: batches, steps, looks, progress."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.networks.language_model import LanguageModel
from agent.training.early_stop import Snapshot
from agent.training.examples import batches, stretched_positions
from agent.training.optimizer import Optimizer, TrainingSettings
from agent.training.ranks import add_gradients, own_rows, rank, total, world_size
from search.errors import RatchetError

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
    losses: list[float] = []
    model.train()
    for step, rows in enumerate(batches(lengths, plan.batch_size, num_steps, rng), 1):
        positions = None
        if settings.position_span:
            longest = max(lengths[i] for i in rows)
            positions = stretched_positions(len(rows), longest, settings.position_span, generator)
        own = 0.0
        if mine := own_rows(rows):
            if positions is not None:
                longest = max(lengths[i] for i in mine)
                positions = positions[rank() :: world_size(), :longest]
            loss = loss_of(Batch(mine, rows, positions))
            loss.backward()
            own = float(loss.detach())
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
    if snapshot is not None:
        snapshot.restore()
    model.eval()
    return losses


def ends_of(losses: Sequence[float]) -> tuple[float, float]:
    """Mean loss over the first and over the last tenth of the steps."""
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
