"""What the engine is asked and what it answers: plain values that travel between processes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agent.networks.pictures import FIRST_WORD
from search.boundary import NEWLINE, Boundary
from search.errors import TaskError
from search.settings import ProposalRule
from search.state import Stop

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OptionRequest:
    """`count` options after a prefix."""

    prefix: Tokens
    count: int
    """In all, those already known included."""
    max_tokens: int
    mode: ProposalRule = "distinct"
    """`distinct`: the most probable different ones; `drawn`: a sample without replacement, in the
    order drawn, so that a larger count begins with a smaller one's; `sampled`: independent."""
    temperature: float = 1.0
    """Of `sampled` and `drawn` options, above 0."""
    seed: int = 0
    boundary: Boundary = NEWLINE
    known: int = 0
    """Options of this prefix that were asked for, and paid for, before."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One completion of a prefix to the end of the text.

    Raises TaskError for a sampling parameter out of range.
    """

    prefix: Tokens
    max_tokens: int
    temperature: float
    """0 takes the most probable token each time."""
    seed: int = 0
    top_k: int = 0
    """Draw from this many most probable tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the fewest most probable tokens that hold so much probability."""
    min_p: float = 0.0
    """Draw from tokens at least so probable, as a share of the most probable one."""
    group: int = 0
    """Texts of one problem share a group: look-up drafts come from it."""

    def __post_init__(self) -> None:
        for name, value, is_right, wanted in (
            ("temperature", self.temperature, 0 <= self.temperature < 100, "in [0, 100)"),
            ("top_k", self.top_k, self.top_k >= 0, "0 or more"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", self.min_p, 0 <= self.min_p <= 1, "in [0, 1]"),
        ):
            if not is_right:
                raise TaskError(f"{name} is {value!r}", f"give a {name} {wanted}")


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """The log-probabilities of tokens that somebody wrote."""

    tokens: Tokens
    num_given: int
    """Leading tokens that are not scored; the first never is."""


Likeliest = tuple[tuple[tuple[int, float], ...], ...]
"""For each scored token of a row the most probable tokens in its place: token, log-probability."""


@dataclass(frozen=True, slots=True)
class Generated:
    """Tokens that the policy wrote."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    """Raw log-probability of each token under the policy (temperature 1)."""
    stop: Stop
    processed_logprobs: tuple[float, ...] = ()
    """Log-probability under the distribution that each token was drawn from, with temperature and
    filters applied; empty for options that were enumerated instead of drawn."""
    version: str = ""
    """Of the weights that wrote it."""


@dataclass(frozen=True, slots=True)
class Options:
    """Answer to a OptionRequest, in the order of its mode."""

    options: tuple[Generated, ...]
    num_tokens: int
    """Tokens generated for the options not known before, those of discarded partial ones
    included."""
    error: str = ""
    """Why this request failed while its batch went on; empty when it did not."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Answer to a CompletionRequest."""

    generated: Generated
    num_drafted: int = 0
    num_accepted: int = 0
    error: str = ""
    """Why this row failed while its batch went on; empty when it did not."""


def refuse_pictures(texts: Iterable[Sequence[int]]) -> None:
    """Raises TaskError for a text that has any: this network would not see them."""
    if any(max(tokens, default=0) >= FIRST_WORD for tokens in texts):
        raise TaskError(
            "the problem comes with a picture, and this policy reads text alone",
            "use a policy that reads pictures, or leave them out",
        )
