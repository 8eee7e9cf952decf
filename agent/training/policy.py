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
) -> TrainingReport:
    """Lower the mean negative log-likelihood of the learned tokens, in place.

    The same decoder, examples, settings and seed give the same weights on the same machine.
    Raises DivergedError when the loss stops being finite; the decoder is then of no use.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    num_steps = planned_steps(len(examples), settings)
    optimizer = Optimizer(decoder, settings, num_steps)
    losses: list[float] = []
    decoder.train()
    device = decoder.model.norm.weight.device
    order = batches([len(e.tokens) for e in examples], settings.batch_size, num_steps, rng)
    for index, rows in enumerate(order):
        tokens_BT, lengths_B = padded([examples[i].tokens for i in rows])
        given_B = torch.tensor([examples[i].num_prompt for i in rows])
        B, T = tokens_BT.shape
        positions = (
            stretched_positions(B, T, settings.position_span, generator)
            if settings.position_span
            else torch.arange(T)[None].expand(B, T)
        )
        place = torch.arange(1, T)
        learned = (place >= given_B[:, None]) & (place < lengths_B[:, None])
        hidden = decoder(tokens_BT.to(device), positions.to(device))[:, :-1][learned.to(device)]
        logprob = dispatch.linear_logprob(
            hidden, decoder.lm_head.weight, tokens_BT[:, 1:][learned].to(device)
        )
        loss = -logprob.mean()
        loss.backward()
        optimizer.step(index)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"the loss became {losses[-1]} at step {index + 1} of {num_steps}",
                "lower training.learning_rate",
            )
        if progress is not None and (index % 10 == 9 or index + 1 == num_steps):
            progress(index + 1, num_steps, sum(losses[-10:]) / len(losses[-10:]))
    decoder.eval()
    tenth = max(1, num_steps // 10)
    return TrainingReport(
        num_steps, len(examples), sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    )
