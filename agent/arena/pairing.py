"""Which two contestants are worth comparing next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.arena.votes import Floats, VoteTable

UNIFORM = 0.2
"""Share of draws in which every pair is as likely as any other: no pair is ever left out, and no
vote weighs much more than another where votes are weighted by their chance."""
DOUBT = 1.0
"""Votes of a tie that every pair is taken to have before the first."""


@dataclass(frozen=True, slots=True)
class Draw:
    left: str
    right: str
    chance: float
    """With which this pair was drawn, either way round."""


def chances(contestants: Sequence[str], met: Floats, strengths: Floats) -> Floats:
    """MM, above the diagonal: the chance of drawing each pair.

    One more vote on a pair takes w |C d|^2 / (1 + w d'C d) off the sum of the variances of all
    strengths, where d is the pair's contrast, C the covariance and w = p (1 - p) the information
    of a vote (an A-optimal design). Pairs are drawn in proportion to that, but for `UNIFORM`.
    """
    m = len(contestants)
    a, b = np.triu_indices(m, 1)
    p = 1 / (1 + np.exp(-(strengths[a] - strengths[b])))
    w = p * (1 - p)
    n = (met[a, b] + DOUBT) * w
    hessian = np.ones((m, m))
    for i, j, sign in ((a, a, 1.0), (b, b, 1.0), (a, b, -1.0), (b, a, -1.0)):
        np.add.at(hessian, (i, j), sign * n)
    covariance = np.linalg.inv(hessian)
    turned = covariance[:, a] - covariance[:, b]
    variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
    gain = w * (turned**2).sum(0) / (1 + w * variance)
    found = np.zeros((m, m))
    found[a, b] = UNIFORM / len(a) + (1 - UNIFORM) * gain / gain.sum()
    return found


def drawn(
    contestants: Sequence[str], possible: Floats, chance: Floats, noise: np.random.Generator
) -> Draw:
    """A pair of those that are `possible` (MM of 0 and 1), with its sides in random order."""
    allowed = np.triu(possible, 1) * chance
    flat = allowed.ravel() / allowed.sum()
    picked = int(noise.choice(len(flat), p=flat))
    pair = [contestants[i] for i in divmod(picked, len(contestants))]
    if noise.random() < 0.5:
        pair.reverse()
    return Draw(pair[0], pair[1], float(flat[picked]))


def met_of(table: VoteTable, contestants: Sequence[str]) -> Floats:
    """MM: votes so far between these contestants."""
    place = {name: i for i, name in enumerate(table.contestants)}
    known = [place.get(name) for name in contestants]
    inner = table.met()
    found = np.zeros((len(known), len(known)))
    for i, a in enumerate(known):
        for j, b in enumerate(known):
            found[i, j] = inner[a, b] if a is not None and b is not None else 0.0
    return found
