"""Which answers to trust where nothing checks them: a rule learned from problems whose answers are
known, and how often it is right.

What speaks for an answer (agreement, scores) is weighed by a logistic regression to the probability
that it is right. A rule trusts an answer from a threshold on. Whether a threshold is good enough is
told by problems that its regression did not see (cross-fitting), with an exact binomial bound that
is corrected for the thresholds tried (Learn then Test, Angelopoulos et al., arXiv 2110.01052).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from critics.calibration import auc, expected_calibration_error

THRESHOLDS = (0.5, 0.65, 0.8, 0.9, 0.97)
"""Probabilities from which an answer may be trusted, the most generous first."""
FOLDS = 5
RIDGE = 1.0
"""Weight of the squared coefficients beside the log-likelihood: a dozen labels decide little."""
STEPS = 50


@dataclass(frozen=True, slots=True)
class Trust:
    """The probability that an answer is right, by what speaks for it, and from where it counts."""

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    shift: float
    threshold: float = 0.0

    def probability(self, evidence: Sequence[float]) -> float:
        parts = zip(evidence, self.means, self.scales, self.weights, strict=True)
        x = self.shift + sum(w * (e - mean) / scale for e, mean, scale, w in parts)
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def trusts(self, evidence: Sequence[float]) -> bool:
        return self.probability(evidence) >= self.threshold


@dataclass(frozen=True, slots=True)
class Trial:
    """What a rule came to on problems whose answers are known."""

    trust: Trust | None
    """None where no threshold is precise enough."""
    num: int
    """Labelled problems that were answered."""
    num_right: int
    num_trusted: int
    """By the rule, or by the one that came nearest to the aim."""
    num_trusted_right: int
    bound: float
    """Least precision of that rule, with the certainty asked for; 0 where it trusts nothing."""
    auc: float | None
    calibration_error: float | None
    needed: int
    """Trusted answers, all of them right, that the aim takes at least."""

    @property
    def precision(self) -> float | None:
        return self.num_trusted_right / self.num_trusted if self.num_trusted else None


def tried(
    evidence: Sequence[Sequence[float]],
    is_right: Sequence[bool],
    min_precision: float,
    certainty: float,
) -> Trial:
    """The most generous rule that is right at least so often, with at least so much certainty."""
    needed = least_trusted(min_precision, certainty)
    labels = np.asarray(is_right, float)
    num, num_right = len(labels), int(labels.sum())
    if num < 2 * FOLDS or num_right in (0, num):
        # One class only says nothing of what speaks for an answer. If all of enough are right,
        # nothing need speak for it.
        bound = precision_bound(num_right, num, certainty) if num_right else 0.0
        width = len(evidence[0]) if num else 0
        everything = Trust((0.0,) * width, (1.0,) * width, (0.0,) * width, 0.0)
        is_enough = num_right == num and num > 0 and bound >= min_precision
        shown = (num, num_right) if num_right == num else (0, 0)
        return Trial(
            everything if is_enough else None, num, num_right, *shown, bound, None, None, needed
        )
    probabilities = cross_fitted(evidence, labels)
    each = 1 - (1 - certainty) / len(THRESHOLDS)
    best: tuple[float, int, int] = (0.0, 0, 0)
    for threshold in THRESHOLDS:
        trusted = probabilities >= threshold
        size, right = int(trusted.sum()), int(labels[trusted].sum())
        bound = precision_bound(right, size, each)
        if bound > best[0]:
            best = (bound, size, right)
        if bound >= min_precision:
            trust = fitted(evidence, labels, threshold)
            found = (size, right, bound)
            return Trial(trust, num, num_right, *found, *_worth(probabilities, labels), needed)
    bound, size, right = best
    return Trial(None, num, num_right, size, right, bound, *_worth(probabilities, labels), needed)


def _worth(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    values, truth = probabilities.tolist(), labels.tolist()
    return auc(values, truth), expected_calibration_error(values, truth)


def cross_fitted(evidence: Sequence[Sequence[float]], labels: np.ndarray) -> np.ndarray:
    """For each row its probability by a regression on the other folds. Rows are dealt to folds by
    their place among those of their class, so that each fold has both."""
    fold = np.empty(len(labels), int)
    for value in (0.0, 1.0):
        places = np.flatnonzero(labels == value)
        fold[places] = np.arange(len(places)) % FOLDS
    found = np.empty(len(labels))
    for k in range(FOLDS):
        inside = fold == k
        trust = fitted(
            [evidence[i] for i in np.flatnonzero(~inside).tolist()], labels[~inside], 0.0
        )
        for i in np.flatnonzero(inside).tolist():
            found[i] = trust.probability(evidence[i])
    return found


def fitted(evidence: Sequence[Sequence[float]], labels: np.ndarray, threshold: float) -> Trust:
    """Maximum likelihood with a ridge, by Newton's method."""
    raw = np.asarray(evidence, float)
    means, scales = raw.mean(axis=0), raw.std(axis=0)
    scales[scales < 1e-9] = 1.0
    design = np.c_[(raw - means) / scales, np.ones(len(raw))]
    penalty = RIDGE * np.r_[np.ones(raw.shape[1]), 1e-6]
    weights = np.zeros(design.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (p - labels) + penalty * weights
        hessian = (design * (p * (1 - p))[:, None]).T @ design + np.diag(penalty + 1e-9)
        move = np.clip(np.linalg.solve(hessian, gradient), -2, 2)
        weights -= move
        if np.abs(move).max() < 1e-9:
            break
    return Trust(
        tuple(means.tolist()),
        tuple(scales.tolist()),
        tuple(weights[:-1].tolist()),
        float(weights[-1]),
        threshold,
    )


def precision_bound(right: int, num: int, certainty: float) -> float:
    """The one-sided lower Clopper-Pearson bound of a proportion: the share at which so many right
    ones or more would be seen with probability 1 - certainty."""
    if right == 0 or num == 0:
        return 0.0
    low, high = 0.0, right / num
    for _ in range(60):
        middle = (low + high) / 2
        if at_least(right, num, middle) > 1 - certainty:
            high = middle
        else:
            low = middle
    return low


def at_least(right: int, num: int, share: float) -> float:
    """P(X >= right) of a binomial."""
    if share <= 0:
        return float(right <= 0)
    if share >= 1:
        return 1.0
    log_p, log_q = math.log(share), math.log1p(-share)
    return math.fsum(
        math.exp(
            math.lgamma(num + 1)
            - math.lgamma(k + 1)
            - math.lgamma(num - k + 1)
            + k * log_p
            + (num - k) * log_q
        )
        for k in range(right, num + 1)
    )


def least_trusted(min_precision: float, certainty: float) -> int:
    """Answers that must be trusted, all of them right, before the aim can be shown.

    >>> least_trusted(0.9, 0.9)
    38
    """
    if min_precision <= 0:
        return 1
    each = (1 - certainty) / len(THRESHOLDS)
    return max(1, math.ceil(math.log(each) / math.log(min_precision) - 1e-9))
