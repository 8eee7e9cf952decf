"""Ways to make a new question of words and numbers from an old one (MetaMath, Orca)."""

import random
import re
from collections.abc import Callable

from search.state import Problem

_ASKS_X = re.compile(r"value of x\?")
_INTEGER = re.compile(r"(?<![\d.,])\d{1,4}(?![\d.,%])")

SYSTEM_MESSAGES = (
    "You are a careful teacher. Explain every step before you give the answer.",
    "You check each calculation twice and write one step a line.",
    "Explain as if to a child of ten, leaving nothing out.",
)


def _change_numbers(problem: Problem, rng: random.Random) -> tuple[str, str | None] | None:
    """Every integer becomes another one of the same number of digits; nobody knows the answer."""

    def other(match: re.Match[str]) -> str:
        digits = len(match[0])
        return str(rng.randint(max(2, 10 ** (digits - 1)), 10**digits - 1))

    text = _INTEGER.sub(other, problem.text)
    return None if text == problem.text else (text, None)


def _hidden(problem: Problem, rng: random.Random) -> tuple[str, str] | None:
    """The text with one of its numbers called x, and that number."""
    numbers = list(_INTEGER.finditer(problem.text))
    if problem.answer is None or not numbers or _ASKS_X.search(problem.text):
        return None
    chosen = rng.choice(numbers)
    return problem.text[: chosen.start()] + "x" + problem.text[chosen.end() :], chosen[0]


def _backward(problem: Problem, rng: random.Random) -> tuple[str, str | None] | None:
    """Hide one number, give the answer, ask for the number (MetaMath, Yu et al. 2023: FOBAR)."""
    made = _hidden(problem, rng)
    if made is None:
        return None
    asked = f"If the answer to this question is {problem.answer}, what is the value of x?"
    return f"{made[0]} {asked}", made[1]


def _self_verification(problem: Problem, rng: random.Random) -> tuple[str, str | None] | None:
    """The question turned into a statement that holds its answer, one number hidden (MetaMath)."""
    made = _hidden(problem, rng)
    if made is None:
        return None
    story, mark, question = made[0].rpartition(". ")
    if not mark or not question.strip().endswith("?"):
        return None
    asked = question.strip().rstrip("?")
    told = f'{story}. It is known that the answer to "{asked}" is {problem.answer}.'
    return f"{told} What is the value of x?", made[1]


def _under_system_message(problem: Problem, rng: random.Random) -> tuple[str, str | None] | None:
    """The problem under a system message that asks for care: the answer stays (Orca, Mukherjee et
    al., arXiv 2306.02707)."""
    if problem.text.startswith(SYSTEM_MESSAGES):
        return None
    return f"{rng.choice(SYSTEM_MESSAGES)}\n{problem.text}", problem.answer


REWRITINGS: dict[str, Callable[[Problem, random.Random], tuple[str, str | None] | None]] = {
    "change-numbers": _change_numbers,
    "backward": _backward,
    "self-verification": _self_verification,
    "orca": _under_system_message,
}
