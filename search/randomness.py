"""Counter-based random numbers for the search: a seed is a digest of what it is for."""

import hashlib
import math


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed for (run seed, problem, node, rollout, purpose, ...).

    >>> derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    True
    >>> derive_seed(1, "a", 2) == derive_seed(1, "a2")
    False
    """
    raw = "\0".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big") >> 1


def uniform(*parts: int | str) -> float:
    """In (0, 1), a pure function of its parts."""
    return (derive_seed(*parts) + 0.5) / 2.0**63


def gumbel(*parts: int | str) -> float:
    """Standard Gumbel noise."""
    return -math.log(-math.log(uniform(*parts)))


def gamma(alpha: float, *parts: int | str) -> float:
    """A draw from Gamma(alpha, 1), alpha > 0; several, divided by their sum, are Dirichlet(alpha).

    Marsaglia and Tsang (2000), with their boost for alpha below 1.
    """
    shape = alpha if alpha >= 1 else alpha + 1
    d = shape - 1 / 3
    c = 1 / math.sqrt(9 * d)
    for attempt in range(10_000):
        u1, u2 = uniform(*parts, attempt, "radius"), uniform(*parts, attempt, "angle")
        x = math.sqrt(-2 * math.log(u1)) * math.cos(2 * math.pi * u2)
        v = (1 + c * x) ** 3
        if v > 0 and math.log(uniform(*parts, attempt)) < x * x / 2 + d - d * v + d * math.log(v):
            boost = uniform(*parts, "boost") ** (1 / alpha) if alpha < 1 else 1.0
            return d * v * boost
    raise AssertionError("a gamma draw was refused 10,000 times")  # under 1 in 10^13000
