"""What the engine is asked and what it answers: plain values that travel between processes."""

from dataclasses import dataclass

from search.state import Stop

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LineRequest:
    """The `count` most probable different lines (or that many samples) after a prefix."""

    prefix: Tokens
    count: int
    max_tokens: int
    temperature: float = 0.0
    """0 asks for the most probable different lines; above 0 for independent samples."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TextRequest:
    """One completion of a prefix to the end of the text."""

    prefix: Tokens
    max_tokens: int
    temperature: float
    """0 takes the most probable token each time."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens that the policy wrote."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    """Raw log-probability of each token under the policy (temperature 1)."""
    stop: Stop


@dataclass(frozen=True, slots=True)
class Lines:
    """Answer to a LineRequest: most probable first."""

    lines: tuple[Generated, ...]
    num_tokens: int
    """Tokens generated, those of discarded beams included."""


@dataclass(frozen=True, slots=True)
class Text:
    """Answer to a TextRequest."""

    generated: Generated
    num_drafted: int = 0
    num_accepted: int = 0
    error: str = ""
    """Why this row failed while its batch went on; empty when it did not."""
