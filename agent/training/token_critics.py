"""Training a critic in the form of a language model to tell right tokens from wrong ones.

The chance that nothing judged is wrong is the product of the critic's token probabilities,
P = prod p(x_t | x_<t). A sound row raises the probability of each of its tokens. A wrong row whose
first wrong token is known (the place where it leaves all its sound siblings) lowers that token's
alone; one of which only the verdict is known lowers P as a whole: the loss is the binary
cross-entropy of P (Yuan et al., arXiv 2412.01981). The policy's own probabilities are where the
training starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agent.networks.language_model import LanguageModel
from agent.training.early_stop import Snapshot, most_measured
from agent.training.examples import JudgedExample
from agent.training.fit import Batch, FitPlan, OnStep, fit, measured_in, planned_steps
from agent.training.head_critics import Judged, measured
from agent.training.logprobs import counted_logprobs, counted_mask
from agent.training.optimizer import TrainingSettings
from critics.heads import LEAST_DOUBT, log_odds


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: Sequence[Sequence[int]]
    given: Sequence[int]
    """Leading tokens of each row that the verdict is not about."""
    good_BT: Tensor
    """Tokens known to be right, [B, T - 1]: place t is token t + 1."""
    wrong_BT: Tensor
    """First wrong tokens."""
    unplaced_B: Tensor
    """Rows that are wrong somewhere, nobody knows where."""


def _batch(examples: Sequence[JudgedExample], device: torch.device) -> _Batch:
    rows = [e.tokens for e in examples]
    lengths_B = torch.tensor([len(row) for row in rows])
    judged = counted_mask(lengths_B, [e.num_given for e in examples], int(lengths_B.max()))
    place_T = torch.arange(1, judged.shape[1] + 1)
    is_good = torch.tensor([e.is_good for e in examples])
    first_B = torch.tensor([-1 if e.first_wrong is None else e.first_wrong for e in examples])
    good = judged & (is_good[:, None] | (place_T < first_B[:, None]))
    wrong = judged & (place_T == first_B[:, None]) & ~is_good[:, None]
    unplaced = ~is_good & (first_B < 0)
    given = [e.num_given for e in examples]
    return _Batch(rows, given, *(x.to(device) for x in (good, wrong, unplaced)))


def _logprobs(critic: LanguageModel, batch: _Batch, positions_BT: Tensor | None) -> Tensor:
    """log p of the judged tokens, 0 elsewhere, [B, T - 1]."""
    return counted_logprobs(critic, batch.rows, batch.given, positions_BT).per_token()


def _loss(logprob_BT: Tensor, batch: _Batch, num_rows: int) -> Tensor:
    """Binary cross-entropy of these rows over `num_rows`, nats."""
    sure_BT = logprob_BT.clamp(max=-LEAST_DOUBT)
    loss = -sure_BT[batch.good_BT].sum()
    loss = loss - torch.log(-torch.expm1(sure_BT[batch.wrong_BT])).sum()
    whole_B = logprob_BT.sum(dim=1)[batch.unplaced_B].clamp(max=-LEAST_DOUBT)
    loss = loss - torch.log(-torch.expm1(whole_B)).sum()
    return loss / num_rows


def train_token_critic(
    critic: LanguageModel,
    examples: Sequence[JudgedExample],
    held_out: Sequence[JudgedExample],
    settings: TrainingSettings,
    seed: int,
    progress: OnStep | None = None,
) -> dict[str, float]:
    """Lower the cross-entropy in place and keep the weights that did best on `held_out`.

    Returns the losses and the step that was kept. Raises DivergedError.
    """
    num_steps = planned_steps(len(examples), settings)
    device = critic.device
    looked_at = held_out[: most_measured(critic)]
    measure = measured_in(critic, settings, lambda: _mean_loss(critic, looked_at))
    snapshot = Snapshot(critic, measure if looked_at else None, num_steps)

    def loss_of(part: Batch) -> Tensor:
        batch = _batch([examples[i] for i in part.rows], device)
        found = _logprobs(critic, batch, part.positions_BT)
        return _loss(found, batch, len(part.all_rows))

    lengths = [len(e.tokens) for e in examples]
    plan = FitPlan(lengths, settings.batch_size, num_steps, settings, seed, is_additive=True)
    losses = fit(critic, plan, loss_of, progress, snapshot)
    return snapshot.report(losses)


@torch.inference_mode()
def _mean_loss(critic: LanguageModel, examples: Sequence[JudgedExample]) -> float:
    device = critic.device
    total = 0.0
    for start in range(0, len(examples), 128):
        batch = _batch(examples[start : start + 128], device)
        found = _loss(_logprobs(critic, batch, None), batch, len(batch.rows))
        total += float(found) * len(batch.rows)
    return total / len(examples)


@torch.inference_mode()
def measure_token_critic(
    critic: LanguageModel, examples: Sequence[JudgedExample]
) -> dict[str, Any]:
    """Calibration fitted on half of the rows; AUC, Brier and calibration error on the other. What
    the task says against whole texts is weighed with what the critic says."""
    device = critic.device
    halves = (Judged(), Judged())
    for start in range(0, len(examples), 128):
        part = examples[start : start + 128]
        sums = _logprobs(critic, _batch(part, device), None).double().sum(dim=1).tolist()
        for i, (example, logprob) in enumerate(zip(part, sums, strict=True), start):
            halves[i % 2].logits.append(log_odds(logprob))
            halves[i % 2].labels.append(float(example.is_good))
            halves[i % 2].doubts.append(example.doubts)
    return measured(halves[0], halves[1], is_bent=True)
