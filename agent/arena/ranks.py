"""Which ranks a contestant may have, all of them at once."""

from dataclasses import dataclass

import numpy as np

from agent.arena.bradley_terry import Strengths

DRAWS = 4_000


@dataclass(frozen=True, slots=True)
class RankSet:
    best: int
    worst: int


def rank_sets(strengths: Strengths, level: float = 0.95, seed: int = 0) -> list[RankSet]:
    """The ranks of every contestant, true together with a chance of `level`.

    A contestant's best rank is one more than the number of those surely above it. Surely means
    that the difference exceeds the quantile of the largest standardised difference over all pairs
    (a max-t test), drawn from the covariance.
    """
    m = len(strengths.contestants)
    spread = np.sqrt(
        [[strengths.variance_between(a, b) for b in range(m)] for a in range(m)], dtype=np.float64
    )
    difference = strengths.values[:, None] - strengths.values[None, :]
    edge = _critical(strengths, spread, level, seed) * spread
    above = difference > edge
    np.fill_diagonal(above, False)
    return [RankSet(1 + int(above[:, a].sum()), m - int(above[a].sum())) for a in range(m)]


def _critical(strengths: Strengths, spread: np.ndarray, level: float, seed: int) -> float:
    values, vectors = np.linalg.eigh(strengths.covariance)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    m = len(values)
    a, b = np.triu_indices(m, 1)
    known = spread[a, b] > 0
    if not known.any():
        return 0.0
    a, b = a[known], b[known]
    noise = np.random.default_rng(seed)
    freedom = max(1, strengths.num_clusters - 1)
    largest = []
    for _ in range(0, DRAWS, 500):
        drawn = noise.standard_normal((500, m)) @ root.T
        scale = np.sqrt(noise.chisquare(freedom, 500) / freedom)
        found = np.abs(drawn[:, a] - drawn[:, b]) / spread[a, b]
        largest.append(found.max(1) / scale)
    return float(np.quantile(np.concatenate(largest), level))
