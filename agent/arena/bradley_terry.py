"""Strengths of contestants from pairs (Bradley and Terry 1952), with honest intervals.

P(a beats b) = 1 / (1 + exp(r_b - r_a)). A tie counts as half a win, or has a chance of its own
(Davidson 1970): P(tie) is proportional to nu sqrt(exp(r_a + r_b)). Strengths sum to zero.

Votes on one problem, and votes of one judge, depend on each other. The covariance is the sandwich
H^-1 M H^-1 whose middle sums the scores within a problem, or within both problem and judge
(Cameron, Gelbach and Miller 2011), before it squares them: a sandwich vote by vote is too narrow
wherever more than two answers share a problem.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from agent.arena.graph import Bools, beaten, groups, reachable
from agent.arena.votes import LOSS, TIE, WIN, Floats, Ints, VoteTable, summed
from search.errors import UsageError

Ties = Literal["half", "davidson"]
Clusters = Literal["problem and judge", "problem", "vote", "none"]
FEWEST_JUDGES = 10
"""Judges from which on their votes are taken together; of fewer nothing can be told."""
FEWEST_PROBLEMS = 10
"""Problems from which on votes on one are taken together; of fewer nothing can be told."""
STEPS = 200
TOLERANCE = 1e-12
SCALE = 400.0 / math.log(10.0)
"""Elo points of one unit of strength."""
ANCHOR = 1000.0
"""Elo points of the mean contestant."""


@dataclass(frozen=True, slots=True)
class Strengths:
    """Maximum-likelihood strengths of M contestants, in natural units."""

    contestants: tuple[str, ...]
    values: Floats
    """M, summing to zero."""
    covariance: Floats
    """MM."""
    hessian_covariance: Floats
    """MM: what it would be were all votes independent and the model right."""
    vote_covariance: Floats
    """MM: the sandwich vote by vote."""
    clusters: Clusters
    """What was taken together."""
    num_clusters: int
    tie: float | None
    """Davidson's nu; None where a tie is half a win."""
    never_lost: tuple[bool, ...]
    """M: whether no vote speaks against it, so that its strength has no upper bound."""
    never_won: tuple[bool, ...]
    is_separated: bool
    """Whether some group of contestants lost to no other: a pair of such groups is given one tie a
    pair that met, and intervals are not narrower than those of independent votes."""
    log_likelihood: float

    @property
    def critical(self) -> float:
        """Of a 95 % interval: Student's t by the number of clusters."""
        return t_quantile(0.975, max(1, self.num_clusters - 1))

    @property
    def design_effect(self) -> float:
        """Mean variance of a difference, over what independent votes would give."""
        alone = _spread(self.vote_covariance)
        return _spread(self.covariance) / alone if alone > 0 else 1.0

    def intervals(self) -> list[tuple[float, float]]:
        """95 % of each strength; an end that no vote bounds is infinite."""
        half = self.critical * np.sqrt(np.clip(np.diag(self.covariance), 0.0, None))
        return [
            (
                -math.inf if self.never_won[i] else float(v - h),
                math.inf if self.never_lost[i] else float(v + h),
            )
            for i, (v, h) in enumerate(zip(self.values, half, strict=True))
        ]

    def variance_between(self, a: int, b: int) -> float:
        v = self.covariance
        return max(0.0, float(v[a, a] + v[b, b] - 2 * v[a, b]))


def fitted(table: VoteTable, ties: Ties = "half", clusters: Clusters | None = None) -> Strengths:
    """The strengths that the votes speak for.

    `clusters` says what is taken together; None: problem and judge where there are judges enough.
    Raises UsageError where contestants were not all compared, directly or over others.
    """
    counts = table.counted()
    won = beaten(counts)
    apart = groups(won)
    if len(apart) > 1:
        told = "; ".join(", ".join(table.contestants[i] for i in one[:4]) for one in apart[:4])
        raise UsageError(
            f"nobody compared these {len(apart)} groups with each other: {told}",
            "cast votes between them, or name the contestants of one group with --contestant",
        )
    reach = reachable(won)
    is_separated = not bool(reach.all())
    counts = counts + _one_tie_between(counts, reach) * float(table.weight.mean())
    theta, hessian, value = _maximum(counts, ties)
    m = len(table.contestants)
    inverse = _inverse(hessian, m, ties)
    scored = _Scored(table, theta, ties)
    kind = clusters or _default_clusters(table)
    covariance, num = _sandwich(inverse, scored, table, kind)
    by_vote, _ = _sandwich(inverse, scored, table, "vote")
    if is_separated or min(num, len(table)) < FEWEST_PROBLEMS:
        # Too little varies for the votes to show how much they would.
        scale = float((table.weight**2).sum() / table.weight.sum())
        covariance, by_vote = (_not_below(c, scale * inverse) for c in (covariance, by_vote))
    others = ~np.eye(m, dtype=np.bool_)
    return Strengths(
        table.contestants,
        theta[:m],
        covariance[:m, :m],
        inverse[:m, :m],
        by_vote[:m, :m],
        kind,
        num,
        float(math.exp(theta[m])) if ties == "davidson" else None,
        tuple(not (won.T & others)[i].any() for i in range(m)),
        tuple(not (won & others)[i].any() for i in range(m)),
        is_separated,
        value,
    )


def t_quantile(p: float, freedom: int) -> float:
    """Student's t, by Cornish and Fisher's expansion: within 0.5 % from 5 degrees of freedom on."""
    z, v = NormalDist().inv_cdf(p), float(freedom)
    terms = (
        (z**3 + z) / 4 / v,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96 / v**2,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / v**3,
    )
    return z + sum(terms)


# --- the likelihood ---


def _outcomes(difference: Floats, log_tie: float, ties: Ties) -> tuple[Floats, Floats, Floats]:
    """Of cells with these differences of strength: log chance of each outcome (N3), its score by
    difference and by log nu (N32), and the information (N22)."""
    n = len(difference)
    score = np.zeros((n, 3, 2))
    if ties == "half":
        win = -np.logaddexp(0.0, -difference)
        loss = -np.logaddexp(0.0, difference)
        p = np.exp(win)
        score[:, WIN, 0], score[:, LOSS, 0], score[:, TIE, 0] = 1 - p, -p, 0.5 - p
        information = np.zeros((n, 2, 2))
        information[:, 0, 0] = p * (1 - p)
        return np.stack([win, loss, (win + loss) / 2], 1), score, information
    logit = np.stack([difference / 2, -difference / 2, np.full(n, log_tie)], 1)
    logp = logit - np.logaddexp.reduce(logit, axis=1, keepdims=True)
    x = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 1.0]])
    p = np.exp(logp)
    mean = p @ x
    score = x[None] - mean[:, None]
    information = np.einsum("nk,nki,nkj->nij", p, score, score)
    return logp, score, information


def _maximum(counts: Floats, ties: Ties) -> tuple[Floats, Floats, float]:
    """Newton's method with halved steps: parameters (M strengths, log nu), the Hessian of the
    negative log-likelihood, and the log-likelihood."""
    m = len(counts)
    a, b = np.nonzero(counts.sum(2))
    n = counts[a, b]
    theta = np.zeros(m + 1)
    value, gradient, hessian = _evaluated(theta, a, b, n, ties)
    for _ in range(STEPS):
        step = _inverse(hessian, m, ties) @ gradient
        if np.abs(step).max() < TOLERANCE:
            break
        for halving in range(40):
            tried = theta + step * 0.5**halving
            found = _evaluated(tried, a, b, n, ties)
            if found[0] >= value - 1e-12 * abs(value):
                theta, (value, gradient, hessian) = tried, found
                break
        else:
            break
    theta[:m] -= theta[:m].mean()
    return theta, hessian, float(value)


def _evaluated(
    theta: Floats, a: Ints, b: Ints, n: Floats, ties: Ties
) -> tuple[float, Floats, Floats]:
    m = len(theta) - 1
    logp, score, information = _outcomes(theta[a] - theta[b], theta[m], ties)
    slope = np.einsum("nk,nki->ni", n, score)
    bend = n.sum(1)[:, None, None] * information
    gradient, hessian = np.zeros(m + 1), np.zeros((m + 1, m + 1))
    np.add.at(gradient, a, slope[:, 0])
    np.add.at(gradient, b, -slope[:, 0])
    gradient[m] = slope[:, 1].sum()
    for i, j, sign in ((a, a, 1.0), (b, b, 1.0), (a, b, -1.0), (b, a, -1.0)):
        np.add.at(hessian, (i, j), sign * bend[:, 0, 0])
    for i, sign in ((a, 1.0), (b, -1.0)):
        np.add.at(hessian, (i, np.full_like(i, m)), sign * bend[:, 0, 1])
        np.add.at(hessian, (np.full_like(i, m), i), sign * bend[:, 0, 1])
    hessian[m, m] = bend[:, 1, 1].sum()
    return float((n * logp).sum()), gradient, hessian


def _inverse(hessian: Floats, m: int, ties: Ties) -> Floats:
    """On strengths that sum to zero, and without log nu where a tie is half a win."""
    full = hessian.copy()
    full[:m, :m] += 1.0
    if ties == "half" or full[m, m] < 1e-12:
        full[m, m] = 1.0
    inverse = np.linalg.inv(full)
    inverse[:m, :m] -= 1.0 / (m * m)
    if ties == "half":
        inverse[m, m] = 0.0
    return (inverse + inverse.T) / 2


def _one_tie_between(counts: Floats, reach: Bools) -> Floats:
    """A tie for each pair that met and of which one lies beyond the other's reach."""
    together = reach & reach.T
    added = np.zeros_like(counts)
    added[:, :, TIE] = (counts.sum(2) > 0) & ~together
    return added


# --- the covariance ---


class _Scored:
    """The scores of votes, added up by whatever they have in common."""

    def __init__(self, table: VoteTable, theta: Floats, ties: Ties) -> None:
        m = len(table.contestants)
        self.m, self.table = m, table
        self.cell = (table.first * m + table.second) * 3 + table.outcome
        pairs = np.arange(m * m)
        difference = theta[pairs // m] - theta[pairs % m]
        self.score = _outcomes(difference, theta[m], ties)[1].reshape(-1, 2)

    def meat(self, cluster: Ints) -> tuple[Floats, int]:
        """Sum over clusters of the squared sum of their scores, and the number of clusters."""
        m, cells = self.m, self.m * self.m * 3
        known, place = np.unique(cluster * cells + self.cell, return_inverse=True)
        weight = summed(place, self.table.weight, len(known))
        names, row = np.unique(known // cells, return_inverse=True)
        cell = known % cells
        a, b = cell // 3 // m, cell // 3 % m
        sums = np.zeros((len(names), m + 1))
        np.add.at(sums, (row, a), weight * self.score[cell, 0])
        np.add.at(sums, (row, b), -weight * self.score[cell, 0])
        np.add.at(sums, (row, np.full_like(a, m)), weight * self.score[cell, 1])
        return sums.T @ sums, len(names)


def _default_clusters(table: VoteTable) -> Clusters:
    if len(table.problems) < FEWEST_PROBLEMS:
        return "vote"
    return "problem and judge" if len(table.judges) >= FEWEST_JUDGES else "problem"


def _sandwich(
    inverse: Floats, scored: _Scored, table: VoteTable, kind: Clusters
) -> tuple[Floats, int]:
    if kind == "none":
        return inverse, len(table)
    if kind == "vote":
        return _filled(inverse, scored.meat(_in_order(table)))
    by_problem, num = _filled(inverse, scored.meat(table.problem))
    if kind == "problem":
        return by_problem, num
    by_judge, num_judges = _filled(inverse, scored.meat(table.judge))
    both = table.problem * len(table.judges) + table.judge
    by_both, _ = _filled(inverse, scored.meat(both))
    found = _positive(by_problem + by_judge - by_both)
    if np.trace(found) < np.trace(by_problem):
        return by_problem, num
    return found, min(num, num_judges)


def _in_order(table: VoteTable) -> Ints:
    """A number a vote, given by what the votes say and not by when they came."""
    columns = (table.weight, table.outcome, table.second, table.first)
    order = np.lexsort((*columns, table.judge, table.problem))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def _filled(inverse: Floats, found: tuple[Floats, int]) -> tuple[Floats, int]:
    meat, num = found
    bread = inverse @ meat @ inverse
    return bread * (num / (num - 1) if num > 1 else 1.0), num


def _positive(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.clip(values, 0.0, None)) @ vectors.T


def _not_below(covariance: Floats, least: Floats) -> Floats:
    """The covariance, raised to `least` in every direction in which it is below it."""
    values, vectors = np.linalg.eigh(least)
    keep = values > 1e-14 * values.max()
    root = vectors[:, keep] * np.sqrt(values[keep])
    undo = vectors[:, keep] / np.sqrt(values[keep])
    scaled = undo.T @ covariance @ undo
    ratio, turn = np.linalg.eigh((scaled + scaled.T) / 2)
    return root @ ((turn * np.clip(ratio, 1.0, None)) @ turn.T) @ root.T


def _spread(covariance: Floats) -> float:
    m = len(covariance)
    return float(np.trace(covariance) - covariance.sum() / m)


def elo(strengths: Sequence[float] | Floats) -> list[float]:
    """Elo points: 400 are a chance of ten to one."""
    return [ANCHOR + SCALE * float(v) for v in strengths]
