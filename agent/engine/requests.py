"""What the engine is asked and what it answers: plain values that travel between processes."""

from dataclasses import dataclass

from search.boundary import NEWLINE, Boundary
from search.settings import ProposalRule
from search.state import Stop

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LineRequest:
    """`count` options after a prefix."""

    prefix: Tokens
    count: int
    max_tokens: int
    mode: ProposalRule = "distinct"
    """`distinct`: the most probable different ones; `drawn`: a sample without replacement, in the
    order drawn, so that a larger count begins with a smaller one's; `sampled`: independent."""
    temperature: float = 1.0
    """Of `sampled` options."""
    seed: int = 0
    boundary: Boundary = NEWLINE


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
    """Answer to a LineRequest, in the order of its mode."""

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
