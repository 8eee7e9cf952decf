"""The ratchet: a candidate becomes the policy only if it beats the old one, paired, held out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from agent.evaluation.intervals import mcnemar_p, paired_difference

POWER = 0.8
"""How often a real gain should pass, for the smallest one to be called detectable."""
USUAL_LOSS = 0.03
"""Share of problems that a better policy usually loses, for plans."""


@dataclass(frozen=True, slots=True)
class Verdict:
    is_promoted: bool
    rule: str
    n: int
    gained: int
    """Held-out problems that only the candidate solves."""
    lost: int
    """Held-out problems that only the old policy solves."""
    difference: float
    low: float
    high: float
    p: float
    """One-sided exact McNemar p."""
    reason: str
    bits_per_character: tuple[float | None, float | None] = (None, None)
    """Of held-out worked texts, before and after: reported, not judged."""
    detectable: float | None = None
    """Smallest true gain that passes four times in five with this many problems and losses."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    before: Mapping[str, bool],
    after: Mapping[str, bool],
    max_p: float,
    bits: tuple[float | None, float | None] = (None, None),
) -> Verdict:
    """Compare two policies on the same problems, by problem key."""
    keys = before.keys() & after.keys()
    gained = sum(after[k] and not before[k] for k in keys)
    lost = sum(before[k] and not after[k] for k in keys)
    difference, low, high = paired_difference(gained, lost, len(keys))
    p = mcnemar_p(gained, lost)
    is_promoted = gained > lost and p < max_p
    reason = (
        f"{gained} problems gained, {lost} lost, p = {p:.2g} "
        f"{'<' if p < max_p else 'not below'} {max_p:.3g}"
    )
    rule = f"greedy on held-out problems, one-sided exact McNemar p < {max_p:.3g}"
    is_test = bool(keys) and 0 < max_p < 1
    seen = detectable(len(keys), max_p, lost / len(keys)) if is_test else None
    return Verdict(
        is_promoted, rule, len(keys), gained, lost, difference, low, high, p, reason, bits, seen
    )


def level(gate_p: float, promoted: Sequence[bool]) -> float:
    """The p below which the next test of a run promotes, after tests that did or did not.

    Each round tests anew on the same held-out problems, so a run shares one level among its tests:
    LORD++ (Ramdas, Yang, Wainwright and Jordan, arXiv 1710.00499) with weights 6 / (pi j)^2. Of the
    promotions of a run at most the share `gate_p` is expected to be none.

    >>> [round(level(0.05, before), 4) for before in ((), (False,), (True,), (True, True))]
    [0.0152, 0.0038, 0.019, 0.0359]
    """
    first = gate_p / 2
    place = len(promoted) + 1
    times = [i for i, is_promoted in enumerate(promoted, 1) if is_promoted]
    earned = sum(gate_p * _weight(place - at) for at in times[1:])
    if times:
        earned += (gate_p - first) * _weight(place - times[0])
    return first * _weight(place) + earned


def _weight(place: int) -> float:
    return 6 / (math.pi * place) ** 2


def least_gained(max_p: float) -> int:
    """Problems that must be gained, none lost, for p to be below `max_p`: so many are needed."""
    return next(k for k in range(1, 2000) if 0.5**k < max_p or k == 1999)


def detectable(n: int, max_p: float, loss: float = USUAL_LOSS) -> float:
    """Smallest true difference in accuracy that the gate passes with a chance of `POWER`.

    For `n` problems of which a share `loss` is lost beside those gained; by the normal
    approximation to McNemar's test (Connor 1987), at most 1.
    """
    z_p, z_power = NormalDist().inv_cdf(1 - max_p), NormalDist().inv_cdf(POWER)
    for step in range(1, 1001):
        gain = step / 1000
        moved = 2 * loss + gain
        spread = z_p * math.sqrt(moved) + z_power * math.sqrt(max(0.0, moved - gain * gain))
        if gain * math.sqrt(n) >= spread and gain * n >= least_gained(max_p):
            return gain
    return 1.0


def kept(reason: str) -> Verdict:
    """The old policy stays without a comparison."""
    return Verdict(False, "no candidate", 0, 0, 0, 0.0, 0.0, 0.0, 1.0, reason)
