"""Supervised fine-tuning of the policy (and distillation of a drafter) on texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agent.engine.batch import padded
from agent.engine.decoder import Decoder
from agent.training.examples import Example, batches, stretched_positions
from agent.training.optimizer import Optimizer, TrainingSettings
from agent.training.ranks import add_gradients, own_rows, rank, total, world_size
from agent.training.snapshot import Snapshot
from kernels import dispatch
from search.errors import RatchetError

Progress = Callable[[int, int, float], None]
"""Called with (steps done, steps in all, mean loss of the last steps)."""


class DivergedError(RatchetError):
    """The loss is no number any more."""


@dataclass(frozen=True, slots=True)
class TrainingReport:
    num_steps: int
    num_examples: int
    first_loss: float
    """Mean over the first tenth of the steps, nats a token."""
    last_loss: float
    """Mean over the last tenth."""
    dev_loss_before: float | None = None
    """On texts set aside; empty when there were too few."""
    dev_loss: float | None = None
    kept_step: int = 0
    """Step whose weights were kept."""


def planned_steps(num_examples: int, settings: TrainingSettings) -> int:
    """Steps to take: as set, but no more than `max_epochs` passes over the examples."""
    most = math.ceil(settings.max_epochs * num_examples / settings.batch_size)
    return max(1, min(settings.num_steps, most))


def train_policy(
    decoder: Decoder,
    examples: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
    dev: Sequence[Example] = (),
) -> TrainingReport:
    """Lower the mean negative log-likelihood of the learned tokens, in place.

    With dev texts the weights that did best on them are kept (early stop).

    The same decoder, examples, settings and seed give the same weights on the same machine.
    Raises DivergedError when the loss stops being finite; the decoder is then of no use.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    num_steps = planned_steps(len(examples), settings)
    optimizer = Optimizer(decoder, settings, num_steps)
    losses: list[float] = []
    measure = (lambda: mean_loss(decoder, dev)) if dev else None
    snapshot = Snapshot(decoder, measure, num_steps, may_stay=False)
    decoder.train()
    order = batches([len(e.tokens) for e in examples], settings.batch_size, num_steps, rng)
    for index, rows in enumerate(order):
        batch = [examples[i] for i in rows]
        part = own_rows(batch)
        positions = None
        if settings.position_span:
            length = max(len(e.tokens) for e in batch)
            positions = stretched_positions(len(batch), length, settings.position_span, generator)
            positions = positions[rank() :: world_size(), : max(len(e.tokens) for e in part)]
        if part:
            num_learned = sum(len(e.tokens) - max(1, e.num_prompt) for e in batch)
            loss = -learned_logprobs(decoder, part, positions).sum() / num_learned
            loss.backward()
        add_gradients(optimizer.parameters)
        optimizer.step(index)
        losses.append(total(float(loss.detach()) if part else 0.0))
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"the loss became {losses[-1]} at step {index + 1} of {num_steps}",
                "lower training.learning_rate",
            )
        if progress is not None and (index % 10 == 9 or index + 1 == num_steps):
            progress(index + 1, num_steps, sum(losses[-10:]) / len(losses[-10:]))
        snapshot.after(index + 1, num_steps)
    snapshot.restore()
    decoder.eval()
    tenth = max(1, num_steps // 10)
    return TrainingReport(
        num_steps, len(examples), sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth,
        snapshot.first_loss if dev else None, snapshot.best_loss if dev else None,
        snapshot.best_step if dev else num_steps,
    )  # fmt: skip


def learned_logprobs(
    decoder: Decoder, examples: Sequence[Example], positions_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """log p of every token that is learned, row by row, [N]."""
    device = decoder.model.norm.weight.device
    tokens_BT, lengths_B = padded([e.tokens for e in examples])
    given_B = torch.tensor([e.num_prompt for e in examples])
    place_T = torch.arange(1, tokens_BT.shape[1])
    learned = (place_T >= given_B[:, None]) & (place_T < lengths_B[:, None])
    positions = None if positions_BT is None else positions_BT.to(device)
    hidden = decoder(tokens_BT.to(device), positions)[:, :-1][learned.to(device)]
    return dispatch.linear_logprob(
        hidden, decoder.lm_head.weight, tokens_BT[:, 1:][learned].to(device)
    )


@torch.inference_mode()
def mean_loss(decoder: Decoder, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood of the learned tokens, nats."""
    total, count = 0.0, 0
    for start in range(0, len(examples), 64):
        found = learned_logprobs(decoder, examples[start : start + 64])
        total -= float(found.double().sum())
        count += len(found)
    return total / count
