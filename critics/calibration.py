"""How good scores are, and how raw logits become probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

USUAL_SLOPE = 1.0
"""Of log-odds against logits in units of their spread: that of an AUC of about .75."""
BINS = 10
"""Equal widths of score that frequencies are compared in."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling: probability = sigmoid(scale * logit + shift)."""

    scale: float = 1.0
    shift: float = 0.0
    is_bent: bool = False
    """Whether asinh(logit) stands for the logit: the log-odds of whole texts reach to minus two
    hundred, and without it such tails decide a slope that the others need (LOG.md)."""
    doubts: tuple[float, ...] = ()
    """Weight of each of the task's doubts about a whole text; none where they said nothing."""

    def apply(self, logit: float, doubts: Sequence[float] = ()) -> float:
        """The probability; `doubts` are the task's, as many as there are weights, or none."""
        x = self.scale * (math.asinh(logit) if self.is_bent else logit) + self.shift
        x += sum(weight * doubt for weight, doubt in zip(self.doubts, doubts, strict=False))
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def fit_calibration(
    logits: Sequence[float],
    labels: Sequence[float],
    is_bent: bool = False,
    doubts: Sequence[Sequence[float]] = (),
    steps: int = 50,
) -> Calibration:
    """Maximum likelihood by Newton's method on Platt's smoothed targets (Platt 1999), with steps
    halved until the likelihood rises (Lin, Lin and Weng 2007): log-odds of whole texts may lie
    anywhere, and where the first guess is far away the curvature there says little.

    The slope is drawn towards `USUAL_SLOPE` by as much as one label would: a handful of positives
    decides little, and one class only leaves the ranking as it is, around the share that was seen.
    The identity comes back only without any labels.

    `doubts` are further numbers of each row, all drawn towards no weight by as much as one label;
    without any, or where none ever differs, the result has none.
    """
    x, y = np.asarray(logits, float), np.asarray(labels, float)
    if not len(x):
        return Calibration()
    if is_bent:
        x = np.arcsinh(x)
    good, bad = float((y > 0.5).sum()), float((y <= 0.5).sum())
    target = np.where(y > 0.5, (good + 1) / (good + 2), 1 / (bad + 2))
    middle, spread = float(x.mean()), float(x.std()) or 1.0
    more = np.asarray(doubts, float).reshape(len(x), -1)
    if not more.size or not more.std(axis=0).any():
        more = more[:, :0]
    design = np.c_[(x - middle) / spread, np.ones_like(x), more]
    share = float(target.mean())
    none = np.zeros(more.shape[1])
    weights = np.r_[USUAL_SLOPE, math.log(share / (1 - share)), none]
    usual, drawn = np.r_[USUAL_SLOPE, 0.0, none], np.r_[1.0, 0.0, none + 1.0]

    def loss_of(weights: np.ndarray) -> float:
        pull = float((drawn * (weights - usual) ** 2).sum()) / 2
        return _cross_entropy(design @ weights, target) + pull

    loss = loss_of(weights)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - target) + drawn * (weights - usual)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(drawn + 1e-9)
        move = np.linalg.solve(hessian, gradient)
        share_taken = 1.0
        while (found := loss_of(weights - share_taken * move)) > loss:
            share_taken /= 2
            if share_taken < 1e-9:
                break
        if share_taken < 1e-9 or float(np.abs(share_taken * move).max()) < 1e-9:
            break
        weights, loss = weights - share_taken * move, found
    scale = float(weights[0]) / spread
    shift = float(weights[1]) - scale * middle
    return Calibration(scale, shift, is_bent, tuple(weights[2:].tolist()))


def _cross_entropy(logits: np.ndarray, target: np.ndarray) -> float:
    """Sum over the rows of -target log p - (1 - target) log (1 - p)."""
    return float((np.logaddexp(0, logits) - target * logits).sum())


def auc(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Area under the ROC curve; ties count one half. None when one class is missing."""
    s, y = np.asarray(scores, float), np.asarray(labels, float) > 0.5
    good, bad = int(y.sum()), int((~y).sum())
    if good == 0 or bad == 0:
        return None
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    rank = (last - (counts - 1) / 2)[inverse]
    return float((rank[y].sum() - good * (good + 1) / 2) / (good * bad))


def brier(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Mean squared difference of score and label; None without scores."""
    if not len(scores):
        return None
    return float(np.mean((np.asarray(scores, float) - np.asarray(labels, float)) ** 2))


def expected_calibration_error(scores: Sequence[float], labels: Sequence[float]) -> float | None:
    """Mean gap between score and frequency over equal-width bins, weighted by their size."""
    if not len(scores):
        return None
    s, y = np.asarray(scores, float), np.asarray(labels, float)
    place = np.minimum((s * BINS).astype(int), BINS - 1)
    gaps = [
        abs(s[place == b].mean() - y[place == b].mean()) * (place == b).sum()
        for b in range(BINS)
        if (place == b).any()
    ]
    return float(sum(gaps) / len(s))


def reliability(scores: Sequence[float], labels: Sequence[float]) -> list[dict[str, float]]:
    """For each bin that is not empty its mean score, the share of good ones, and its size."""
    s, y = np.asarray(scores, float), np.asarray(labels, float)
    place = np.minimum((s * BINS).astype(int), BINS - 1)
    return [
        {
            "score": float(s[place == b].mean()),
            "good": float(y[place == b].mean()),
            "n": int((place == b).sum()),
        }
        for b in range(BINS)
        if (place == b).any()
    ]
