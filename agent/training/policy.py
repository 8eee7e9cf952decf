"""Supervised fine-tuning of the policy (and distillation of a drafter) on texts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agent.engine.batch import padded
from agent.networks.llama import Decoder
from agent.training.early_stop import Snapshot
from agent.training.examples import Example
from agent.training.fit import Batch, Progress, ends_of, fit, planned_steps
from agent.training.optimizer import TrainingSettings
from kernels import dispatch


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
    num_steps = planned_steps(len(examples), settings)
    measure = (lambda: mean_loss(decoder, dev)) if dev else None
    snapshot = Snapshot(decoder, measure, num_steps, may_stay=False)

    def loss_of(batch: Batch) -> Tensor:
        num_learned = sum(
            len(examples[i].tokens) - max(1, examples[i].num_prompt) for i in batch.all_rows
        )
        part = [examples[i] for i in batch.rows]
        return -learned_logprobs(decoder, part, batch.positions_BT).sum() / num_learned

    losses = fit(
        decoder,
        [len(e.tokens) for e in examples],
        settings.batch_size,
        settings,
        num_steps,
        seed,
        loss_of,
        progress,
        snapshot,
    )
    return TrainingReport(
        num_steps,
        len(examples),
        *ends_of(losses),
        snapshot.first_loss if dev else None,
        snapshot.best_loss if dev else None,
        snapshot.best_step if dev else num_steps,
    )


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
    ).logprob


@torch.inference_mode()
def mean_loss(decoder: Decoder, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood of the learned tokens, nats."""
    total, count = 0.0, 0
    for start in range(0, len(examples), 64):
        found = learned_logprobs(decoder, examples[start : start + 64])
        total -= float(found.double().sum())
        count += len(found)
    return total / count
