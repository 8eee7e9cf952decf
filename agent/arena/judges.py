"""Whether judges agree, lean to a side, or click at random."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from agent.arena.bradley_terry import Strengths, fitted
from agent.arena.votes import LOSS, TIE, WIN, Vote, VoteTable, vote_table
from agent.evaluation.intervals import wilson
from search.errors import UsageError
from store.states import Choice

LEVEL = 0.01
"""Chance with which an honest judge is flagged."""
FEWEST_VOTES = 10
"""Votes from which on a judge can be flagged."""
PASSES = 5


@dataclass(frozen=True, slots=True)
class PositionBias:
    share_left: float
    """Of the votes that preferred a side."""
    low: float
    high: float
    n: int


def position_bias(votes: Sequence[Vote]) -> PositionBias:
    """Share of preferences for the left answer, with its 95 % Wilson interval. Sides are drawn, so
    that it is a half where position does not matter."""
    told = Counter(v.choice for v in votes)
    left, n = told[Choice.LEFT], told[Choice.LEFT] + told[Choice.RIGHT]
    return PositionBias(left / n if n else 0.5, *wilson(left, n), n)


def agreement(votes: Sequence[Vote]) -> tuple[float | None, int]:
    """Fleiss' kappa over comparisons that several judges made, and their number.

    A comparison is a problem with two contestants; it may have any number of judges from two on.
    None without such a comparison, or where all judges always say the same one thing.
    """
    told: dict[tuple[str, str, str], Counter[int]] = defaultdict(Counter)
    for vote in votes:
        pair = sorted((vote.left, vote.right))
        turned = vote.left != pair[0]
        sides = {Choice.LEFT: LOSS if turned else WIN, Choice.RIGHT: WIN if turned else LOSS}
        told[vote.problem, pair[0], pair[1]][sides.get(vote.choice, TIE)] += 1
    several = [c for c in told.values() if c.total() > 1]
    if not several:
        return None, 0
    n = sum(c.total() for c in several)
    same = [sum(k * (k - 1) for k in c.values()) / (c.total() * (c.total() - 1)) for c in several]
    observed = sum(s * c.total() for s, c in zip(same, several, strict=True)) / n
    shares = [sum(c[k] for c in several) / n for k in (WIN, LOSS, TIE)]
    by_chance = sum(s * s for s in shares)
    return (None if by_chance == 1 else (observed - by_chance) / (1 - by_chance)), len(several)


@dataclass(frozen=True, slots=True)
class JudgeFit:
    """How well a judge's votes go with the strengths."""

    judge: str
    n: int
    p: float | None
    """Chance of votes that go with them as badly, were the judge like the others; None of too few
    votes."""
    is_flagged: bool


def judge_fits(votes: Sequence[Vote], level: float = LEVEL) -> list[JudgeFit]:
    """Each judge's votes against strengths fitted without those who are flagged.

    The statistic is the log-likelihood of a judge's votes less its expectation, over its standard
    deviation; one-sided. Who clicks at random is less likely than votes drawn from the strengths.
    """
    flagged: set[str] = set()
    found: list[JudgeFit] = []
    for _ in range(PASSES):
        trusted = [v for v in votes if v.judge not in flagged]
        try:
            strengths = fitted(vote_table(trusted), "davidson", "none")
            found = _fits(vote_table(votes), strengths, level)
        except UsageError:
            return found
        again = {f.judge for f in found if f.is_flagged}
        if again == flagged:
            break
        flagged = again
    return found


def _fits(table: VoteTable, strengths: Strengths, level: float) -> list[JudgeFit]:
    place = {name: i for i, name in enumerate(strengths.contestants)}
    known = np.array([place.get(name, -1) for name in table.contestants])
    first, second = known[table.first], known[table.second]
    usable = (first >= 0) & (second >= 0)
    difference = np.where(usable, strengths.values[first] - strengths.values[second], 0.0)
    log_tie = math.log(strengths.tie) if strengths.tie else -math.inf
    logit = np.stack([difference / 2, -difference / 2, np.full(len(difference), log_tie)], 1)
    logp = logit - np.logaddexp.reduce(logit, axis=1, keepdims=True)
    p = np.exp(logp)
    finite = np.where(p > 0, logp, 0.0)
    mean = (p * finite).sum(1)
    variance = (p * finite**2).sum(1) - mean**2
    gain = np.where(usable, logp[np.arange(len(logp)), table.outcome] - mean, 0.0)
    rows = []
    for i, judge in enumerate(table.judges):
        mine = (table.judge == i) & usable
        n, spread = int(mine.sum()), math.sqrt(float(variance[mine].sum()))
        if n < FEWEST_VOTES or spread == 0:
            rows.append(JudgeFit(judge, n, None, False))
            continue
        chance = NormalDist().cdf(float(gain[mine].sum()) / spread)
        rows.append(JudgeFit(judge, n, chance, chance < level))
    return rows
