"""Scores that may be missing: no score is not a score of zero."""

from dataclasses import dataclass

DOES_NOT_APPLY = "does not apply"
"""Reason of a critic that has nothing to say of such a state."""


@dataclass(frozen=True, slots=True)
class Score:
    critic: str
    version: str
    """Digest of the weights, or the tool's own version."""
    value: float | None
    """In [0, 1]; None when the critic gave none."""
    reason: str = ""
    """Why the value is missing, or what a tool found."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a tool says of the last step of a state."""

    is_sound: bool | None
    """None when the tool has nothing to say of such a step."""
    reason: str = ""
