"""The ratchet: a candidate becomes the policy only if it beats the old one, paired, held out."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.evaluation.intervals import mcnemar_p, paired_difference


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
        f"{'<' if p < max_p else 'not below'} {max_p:g}"
    )
    rule = f"greedy on held-out problems, one-sided exact McNemar p < {max_p:g}"
    return Verdict(
        is_promoted, rule, len(keys), gained, lost, difference, low, high, p, reason, bits
    )


def kept(reason: str) -> Verdict:
    """The old policy stays without a comparison."""
    return Verdict(False, "no candidate", 0, 0, 0, 0.0, 0.0, 0.0, 1.0, reason)
