"""What a problem domain must say of itself."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.tasks.operators import Operator
from search.boundary import Boundary
from search.errors import TaskError
from search.score import Finding
from search.state import Problem

MAX_PROBLEM_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A worked problem: the prompt and its steps, each step ending as the model should end it."""

    problem: Problem
    steps: tuple[str, ...]


class Task(Protocol):
    """A problem source, a step boundary, an answer checker and a tool for the critics.

    The last step ends with the end of the text, each other one at the boundary.
    """

    name: str
    boundary: Boundary
    """Where a step ends, unless the search's settings name another."""
    tool: str
    """Name of the tool behind `check_step`; empty when there is none."""

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Ways to make new problems from old ones."""
        ...

    def read(self, text: str) -> str:
        """The problem in its normal form. Raises TaskError for what is not a problem."""
        ...

    def prompt(self, text: str) -> str:
        """What the model is given before its first step."""
        ...

    def key(self, text: str) -> str:
        """Equal for two problems exactly when they count as the same one."""
        ...

    def answer_of(self, steps: Sequence[str]) -> str | None:
        """Final answer of a finished text; None when it has none."""
        ...

    def is_correct(self, answer: str | None, reference: str) -> bool: ...

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        """What the tool says of the last of `steps`, given the problem and those before it."""
        ...

    def seeds(self, num: int, seed: int) -> list[Problem]:
        """Problems to start from, none of them held out."""
        ...

    def held_out(self, num: int, seed: int) -> list[Problem]:
        """Problems kept for evaluation, with answers; never among seeds or imagined ones."""
        ...

    def labelled(self, num: int, seed: int) -> list[Problem]:
        """Problems with answers from which critics may learn, none of them held out."""
        ...

    def given(self, seed: int) -> list[Problem]:
        """Problems that are there to be searched before any is made, none of them held out."""
        ...

    def written(self, text: str) -> Problem:
        """A problem that a model wrote. Raises TaskError for what is none of this task."""
        ...

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        """Held-out worked problems: text that the policy should still find likely after a round.
        Empty where there are none."""
        ...

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        """Worked problems to replay in training; empty where there are none."""
        ...


def problem_id(task: str, key: str) -> str:
    return hashlib.sha256(f"{task}\0{key}".encode()).hexdigest()[:20]


def is_held_out(key: str) -> bool:
    """Whether a key falls into the held-out tenth. Fixed by the key alone, for ever."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 10 == 0


def check_text(text: str) -> str:
    """Refuse what no task can use: empty, far too long, or not encodable text."""
    if not text.strip():
        raise TaskError("the problem is empty", "write a question")
    if len(text) > MAX_PROBLEM_CHARACTERS:
        raise TaskError(
            f"the problem has {len(text):,} characters, more than {MAX_PROBLEM_CHARACTERS:,}",
            "shorten it, or split it into several problems",
        )
    if "\0" in text:
        raise TaskError("the problem contains a NUL character", "remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"the problem holds {text[error.start]!r}, which is not valid Unicode text",
            "save the file as UTF-8",
        ) from error
    return text


def generator(*parts: object) -> random.Random:
    """A random generator that depends on the parts alone."""
    return random.Random("\0".join(map(str, parts)))
