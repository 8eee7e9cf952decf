"""Intervals and tests for accuracies, exact where that is cheap."""

import math
import statistics
from collections.abc import Sequence

Z_95 = 1.959963984540054
FEWEST = 4
"""Pairs that a correlation has an interval of."""


def wilson(num_correct: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share; (0, 1) without observations."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = num_correct / n, Z_95 * Z_95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    """Difference of two paired shares with its 95 % interval (Bonett and Price 2012)."""
    if n == 0:
        return 0.0, -1.0, 1.0
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = Z_95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return (gained - lost) / n, max(-1.0, up - down - half), min(1.0, up - down + half)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float] | None:
    """Pearson's r with its 95 % interval (Fisher's transformation); None of fewer pairs than
    `FEWEST`, where one side does not vary, or where a number is none."""
    if not all(map(math.isfinite, (*xs, *ys))):
        return None
    if len(xs) < FEWEST or min(xs) == max(xs) or min(ys) == max(ys):
        return None
    r = max(-1.0, min(1.0, statistics.correlation(xs, ys)))
    if abs(r) == 1.0:
        return r, r, r
    half = Z_95 / math.sqrt(len(xs) - 3)
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def mcnemar_p(gained: int, lost: int) -> float:
    """One-sided exact McNemar test: chance of at least this many gains if neither were better."""
    n = gained + lost
    return sum(math.comb(n, k) for k in range(gained, n + 1)) / 2**n if n else 1.0
