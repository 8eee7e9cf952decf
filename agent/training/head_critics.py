"""Training a critic with a scalar head from labelled texts, and measuring what it is worth."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.nn import functional as F

from agent.engine.batch import padded
from agent.networks.language_model import LanguageModel
from agent.training.early_stop import Snapshot, most_measured
from agent.training.examples import LabelledExample
from agent.training.fit import Batch, FitPlan, OnStep, fit, measured_in, planned_steps
from agent.training.optimizer import TrainingSettings
from critics.calibration import (
    Calibration,
    auc,
    brier,
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from kernels import dispatch

LEAST_CHANCE = 1e-6
"""A score is never taken to be nearer to 0 or 1."""


def train_critic(
    critic: LanguageModel,
    examples: Sequence[LabelledExample],
    held_out: Sequence[LabelledExample],
    settings: TrainingSettings,
    seed: int,
    progress: OnStep | None = None,
) -> dict[str, float]:
    """Lower the class-balanced binary cross-entropy at the labelled places, in place, and keep the
    weights that did best on `held_out`. Returns the losses and the step that was kept.

    Both classes weigh the same in all, so a policy that is mostly right or mostly wrong does not
    turn the critic into a constant; calibration afterwards restores the true frequencies. So what
    counts on held-out texts is the cross-entropy of calibrated scores: a head that ranks well and
    is far too sure has a loss above that of no head at all (LOG.md).
    """
    labels = [label for e in examples for label in e.labels]
    share = sum(labels) / len(labels) if labels else 0.5
    good_weight, bad_weight = 0.5 / max(share, 1e-3), 0.5 / max(1 - share, 1e-3)
    num_steps = planned_steps(len(examples), settings)
    device = critic.device
    looked_at = held_out[: most_measured(critic)]
    measure = measured_in(
        critic, settings, lambda: calibrated_loss(*judged_halves(critic, looked_at))
    )
    snapshot = Snapshot(critic, measure if looked_at else None, num_steps)

    def loss_of(batch: Batch) -> torch.Tensor:
        chosen = [examples[i] for i in batch.rows]
        tokens_BT, _ = padded([e.tokens for e in chosen])
        logits, target = _places(critic, chosen, tokens_BT, batch.positions_BT, device)
        weight = torch.where(target > 0.5, good_weight, bad_weight)
        if len(batch.rows) == len(batch.all_rows):
            return F.binary_cross_entropy_with_logits(logits, target, weight=weight)
        total = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
        return total / sum(len(examples[i].places) for i in batch.all_rows)

    lengths = [len(e.tokens) for e in examples]
    plan = FitPlan(lengths, settings.batch_size, num_steps, settings, seed, is_additive=True)
    losses = fit(critic, plan, loss_of, progress, snapshot)
    return snapshot.report(losses)


def _places(
    critic: LanguageModel,
    examples: Sequence[LabelledExample],
    tokens_BT: torch.Tensor,
    positions_BT: torch.Tensor | None,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels at all labelled places of a batch."""
    row = torch.tensor([i for i, e in enumerate(examples) for _ in e.places])
    column = torch.tensor([p for e in examples for p in e.places])
    target = torch.tensor([label for e in examples for label in e.labels])
    positions = None if positions_BT is None else positions_BT.to(device)
    hidden = critic.of_rows([e.tokens for e in examples], tokens_BT.to(device), positions)
    at = (row * hidden.shape[1] + column).to(device)
    logits = dispatch.critic_heads(hidden.flatten(0, 1), critic.head[:1], at)
    return logits[:, 0], target.to(device)


@torch.inference_mode()
def measure_critic(critic: LanguageModel, examples: Sequence[LabelledExample]) -> dict[str, Any]:
    """Calibration fitted on half of the texts; AUC, Brier and calibration error on the other."""
    return measured(*judged_halves(critic, examples))


def judged_halves(
    critic: LanguageModel, examples: Sequence[LabelledExample]
) -> tuple["Judged", "Judged"]:
    """What the critic says at the labelled places, every other text apart."""
    device = critic.device
    halves = (Judged(), Judged())
    for start in range(0, len(examples), 64):
        part = examples[start : start + 64]
        tokens_BT, _ = padded([e.tokens for e in part])
        logits, target = _places(critic, part, tokens_BT, None, device)
        place = 0
        for i, example in enumerate(part, start):
            end = place + len(example.places)
            halves[i % 2].logits.extend(logits[place:end].tolist())
            halves[i % 2].labels.extend(target[place:end].tolist())
            place = end
    return halves


@dataclass(frozen=True, slots=True)
class Judged:
    """What a critic said of some rows, and what is true."""

    logits: list[float] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    doubts: list[tuple[float, ...]] = field(default_factory=list)
    """Of each row, or none at all."""

    @property
    def alone(self) -> "Judged":
        """The same without doubts."""
        return Judged(self.logits, self.labels)

    def calibration(self, is_bent: bool) -> Calibration:
        return fit_calibration(self.logits, self.labels, is_bent, self.doubts)

    def scores(self, calibration: Calibration) -> list[float]:
        doubts = self.doubts or [()] * len(self.logits)
        return [calibration.apply(x, d) for x, d in zip(self.logits, doubts, strict=True)]


def calibrated_loss(one: Judged, other: Judged) -> float:
    """Cross-entropy a label of scores that the other half calibrates, nats."""
    total = 0.0
    for ours, theirs in ((one, other), (other, one)):
        scores = theirs.scores(ours.calibration(is_bent=False))
        for score, label in zip(scores, theirs.labels, strict=True):
            sure = min(max(score, LEAST_CHANCE), 1 - LEAST_CHANCE)
            total -= label * math.log(sure) + (1 - label) * math.log(1 - sure)
    return total / (len(one.labels) + len(other.labels))


def measured(fitted: Judged, tested: Judged, is_bent: bool = False) -> dict[str, Any]:
    """Report from two halves of the rows: each is measured as the other calibrates it, and both
    together calibrate what is used. `auc` is the critic's alone: by it a critic is believed, whose
    number some are given without doubts."""
    scores: list[float] = []
    labels: list[float] = []
    alone: list[tuple[float, int]] = []
    told: list[tuple[float, int]] = []
    for ours, theirs in ((fitted, tested), (tested, fitted)):
        found = theirs.scores(ours.calibration(is_bent))
        plain = theirs.alone.scores(ours.alone.calibration(is_bent))
        for areas, values in ((alone, plain), (told, found)):
            area = auc(values, theirs.labels)
            areas += [] if area is None else [(area, len(values))]
        scores += found
        labels += theirs.labels
    both = Judged(
        [*fitted.logits, *tested.logits],
        [*fitted.labels, *tested.labels],
        [*fitted.doubts, *tested.doubts],
    )
    calibration = both.calibration(is_bent)
    more: dict[str, Any] = {}
    if calibration.doubts:
        more["auc_with_doubts"] = _mean_area(told)
        more["calibration_alone"] = asdict(both.alone.calibration(is_bent))
    return more | {
        "auc": _mean_area(alone),
        "brier": brier(scores, labels),
        "calibration_error": expected_calibration_error(scores, labels),
        "share_good": sum(labels) / len(labels) if labels else None,
        "n": len(labels),
        "calibration": asdict(calibration),
        "reliability": reliability(scores, labels),
    }


def _mean_area(areas: Sequence[tuple[float, int]]) -> float | None:
    """Mean of (area, rows), by rows; None without any."""
    num = sum(n for _, n in areas)
    return sum(area * n for area, n in areas) / num if num else None
