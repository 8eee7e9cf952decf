"""Problems, options and states: the words that every floor above speaks."""

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import Literal

Stop = Literal["boundary", "end", "length"]
"""Why an option stopped: the task's step boundary, the end of the text, or the token limit."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, and, where it is known, its reference answer. Search never sees the answer."""

    id: str
    """Digest of the task's key for the text: equal for problems that count as the same."""
    text: str
    answer: str | None = None
    """Reference answer; None when nobody knows it."""
    origin: str = "given"
    """Where it came from: given, generated, or the imagination operator and its parent's id."""
    difficulty: float | None = None
    """The task's own measure, for example the number of operators; None when it has none."""
    family: str = ""
    """Id of the problem that this one says in other words; empty for one of its own."""
    pictures: tuple[str, ...] = ()
    """Digests of the pictures that it comes with, in order."""


@dataclass(frozen=True, slots=True)
class Option:
    """A run of tokens that acts as one action (Sutton, Precup, Singh 1999)."""

    tokens: tuple[int, ...]
    """Token ids as generated; re-tokenising `text` need not give them back."""
    text: str
    logprob: float
    """Sum of the tokens' log-probabilities under the proposer."""
    stop: Stop


def probability(logprob: float) -> float:
    """0 for what is no number."""
    return math.exp(logprob) if logprob < 0.0 else float(logprob >= 0.0)


@dataclass(frozen=True, slots=True)
class State:
    """A problem's prompt and the options taken so far."""

    problem_id: str
    prompt_tokens: tuple[int, ...]
    prompt: str
    options: tuple[Option, ...] = field(default=())
    problem: str = ""
    """The problem's own text, of which the prompt was made: what a tool checks options against."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and options as the model sees them."""
        found = list(self.prompt_tokens)
        for option in self.options:
            found += option.tokens
        return tuple(found)

    @property
    def steps(self) -> list[str]:
        return [option.text for option in self.options]

    @property
    def depth(self) -> int:
        return len(self.options)

    @property
    def is_terminal(self) -> bool:
        """True when nothing may follow: the text ended, or ran into the token limit."""
        return bool(self.options) and self.options[-1].stop != "boundary"

    @property
    def is_finished(self) -> bool:
        """True when the text ended by itself; a state cut off by length is terminal only."""
        return bool(self.options) and self.options[-1].stop == "end"

    @property
    def key(self) -> str:
        """Digest of the token ids, 16 hexadecimal digits."""
        raw = b"".join(t.to_bytes(4, "little") for t in self.tokens)
        return hashlib.sha256(raw).hexdigest()[:16]

    def extended(self, option: Option) -> "State":
        return replace(self, options=(*self.options, option))
