"""Named ways to make a new problem from an old one."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from search.state import Problem


@dataclass(frozen=True, slots=True)
class Operator:
    """One way to rewrite a problem. Operators compose: what one made another may take up."""

    name: str
    apply: Callable[[Problem, random.Random], Problem | None]
    """The new problem, its origin still empty; None where the operator does not fit."""
    harder: int = 0
    """1: more steps, -1: fewer, 0: about as many."""
    keeps_answer: bool = False
    """The same question in other words: answers may be compared with the parent's."""
