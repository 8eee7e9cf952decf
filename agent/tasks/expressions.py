"""Reduce an arithmetic expression one operation a line: `7+2*3-4`, `7+6-4`, `13-4`, `9`.

Operands 1 to 9; +, - and *; no brackets; no value beyond ±99 on the way. The demonstrations are
easy (1 to 4 operators, a few with 5), the problems to learn from and the held-out ones are hard
(5 to 7): easy to hard, so that there is something for the model to find out by itself.

The calculator checks a whole step here (same value, one operation fewer), so with it the search
has a process oracle; `--no-tool` shows what is left without.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from agent.tasks.operators import Operator
from agent.tasks.task import Demonstration, Proves, Task, generator, is_held_out, problem_id
from critics.calculator import MAX_LENGTH, CalculatorError
from critics.working import Question, question_of
from search.errors import TaskError
from search.score import Finding
from search.state import Problem

MAX_VALUE = 99
EASY = (1, 2, 3, 4)
HARD = (5, 6, 7)
MAX_OPERATORS = 8

_EXPRESSION = re.compile(r"-?\d{1,5}(?:[-+*]\d{1,5}){0,40}")
_NUMBER = re.compile(r"-?\d+")
_PRODUCT = re.compile(r"(\d+)(\*)(\d+)")
_TERM = re.compile(r"([-+]?)(\d+(?:\*\d+)*)")
_SUM = re.compile(r"(-?\d+)([-+])(\d+)")


def next_operation(text: str) -> re.Match[str] | None:
    """Where the leftmost legal operation stands, products before sums: left, sign and right. A
    minus before a product stays where it is; that before the first summand belongs to it."""
    return _PRODUCT.search(text) or _SUM.match(text)


def reduced(text: str) -> str:
    """The expression after its next operation."""
    operation = next_operation(text)
    if operation is None:
        raise TaskError(f"{text!r} has no operation to reduce")
    left, right = int(operation[1]), int(operation[3])
    signs = {"+": left + right, "-": left - right, "*": left * right}
    return text[: operation.start()] + str(signs[operation[2]]) + text[operation.end() :]


@lru_cache(maxsize=2**16)
def value_of(text: str) -> int:
    """What an expression comes to. A search asks this of every step, so it is worked out in whole
    numbers. Raises CalculatorError for one that is too long."""
    if len(text) > MAX_LENGTH:
        raise CalculatorError(f"an expression of {len(text)} characters")
    total = 0
    for sign, factors in _TERM.findall(text):
        product = math.prod(map(int, factors.split("*")))
        total += -product if sign == "-" else product
    return total


def num_operators(text: str) -> int:
    return len(re.findall(r"(?<=\d)[-+*]", text))


def solution(text: str) -> list[str]:
    """All lines below the expression, down to the value."""
    lines = []
    while num_operators(text):
        text = reduced(text)
        lines.append(text)
    return lines


def _is_small(text: str) -> bool:
    lines = [text, *solution(text)]
    return all(int(n) <= MAX_VALUE for line in lines for n in re.findall(r"\d+", line))


def drawn_expression(rng: random.Random, operators: int) -> str:
    while True:
        text = str(rng.randint(1, 9))
        for _ in range(operators):
            text += rng.choice("+-*") + str(rng.randint(1, 9))
        if _is_small(text):
            return text


def _change_numbers(text: str, rng: random.Random) -> str:
    return re.sub(r"\d", lambda _: str(rng.randint(1, 9)), text)


def _harder(text: str, rng: random.Random) -> str:
    return text + rng.choice("+-*") + str(rng.randint(1, 9))


def _easier(text: str, rng: random.Random) -> str:
    return text[:-2]


def _change_operators(text: str, rng: random.Random) -> str:
    return re.sub(r"(?<=\d)[-+*]", lambda _: rng.choice("+-*"), text)


def _reorder(text: str, rng: random.Random) -> str:
    """Summands and factors in another order: the same value, other steps."""
    terms = [(sign or "+", factors.split("*")) for sign, factors in _TERM.findall(text)]
    for _, factors in terms:
        rng.shuffle(factors)
    rng.shuffle(terms)
    first = next(i for i, (sign, _) in enumerate(terms) if sign == "+")
    terms.insert(0, terms.pop(first))
    return "".join(sign + "*".join(factors) for sign, factors in terms)[1:]


REWRITINGS: dict[str, tuple[Callable[[str, random.Random], str], int]] = {
    "change-numbers": (_change_numbers, 0),
    "change-operators": (_change_operators, 0),
    "harder": (_harder, 1),
    "easier": (_easier, -1),
    "reorder": (_reorder, 0),
}
"""Each with how it changes the number of operators."""


class Expressions(Task):
    name = "expressions"
    tool = "calculator"
    proves: Proves = "steps"

    def read(self, text: str) -> str:
        text = "".join(text.split())
        if not _EXPRESSION.fullmatch(text) or num_operators(text) == 0:
            raise TaskError(
                f"{text[:80]!r} is not an expression of digits, +, - and *",
                "write something like 7+2*3-4, or choose another task with --task",
            )
        return text

    def key(self, text: str) -> str:
        return text

    def answer_of(self, steps: Sequence[str]) -> str | None:
        last = steps[-1].strip() if steps else ""
        return str(int(last)) if _NUMBER.fullmatch(last) and len(last) < 20 else None

    def same_answer(self, left: str, right: str) -> bool:
        return left == right

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        before = steps[-2].strip() if len(steps) > 1 else text
        step = steps[-1].strip()
        if not _EXPRESSION.fullmatch(step):
            return Finding(False, "not an expression")
        if num_operators(step) != num_operators(before) - 1:
            return Finding(False, "not one operation fewer")
        try:
            is_same = value_of(before) == value_of(step)
        except CalculatorError as error:
            return Finding(False, str(error))
        if not is_same:
            return Finding(False, "the value changed")
        if num_operators(step) == 0 and steps[-1].endswith("\n"):
            return Finding(False, "goes on after the value")
        return Finding(True, "same value, one operation fewer")

    def questions(self, text: str, steps: Sequence[str]) -> tuple[Question, ...] | None:
        """The line before with its next operation replaced by a number claims that operation."""
        before = steps[-2].strip() if len(steps) > 1 else text
        step = steps[-1].strip()
        operation = next_operation(before)
        if operation is None:
            return None
        start, end = operation.span()
        left, right = before[:start], before[end:]
        value = step[len(left) : len(step) - len(right)]
        if step != left + value + right or not _NUMBER.fullmatch(value):
            return None
        question = question_of(operation[1], operation[2], operation[3], value)
        return None if question is None else (question,)

    def problem(self, text: str, origin: str) -> Problem:
        return Problem(
            id=problem_id(self.name, self.key(text)),
            text=text,
            answer=str(value_of(text)),
            origin=origin,
            difficulty=float(num_operators(text)),
        )

    def _unique(
        self, rng: random.Random, num: int, levels: Sequence[int], held_out: bool, origin: str
    ) -> list[Problem]:
        """`num` different problems, the levels taking turns; one-operator problems run out."""
        found: dict[str, Problem] = {}
        for level in _turns(levels, num):
            for _ in range(200):
                text = drawn_expression(rng, level)
                if is_held_out(text) == held_out and text not in found:
                    found[text] = self.problem(text, origin)
                    break
        return list(found.values())

    def seeds(self, num: int, seed: int) -> list[Problem]:
        return self._unique(generator("seeds", seed), num, HARD, False, "generated")

    def held_out(self, num: int, seed: int) -> list[Problem]:
        return self._unique(generator("held-out", seed), num, HARD, True, "generated")

    def labelled(self, num: int, seed: int) -> list[Problem]:
        """Half as easy as the demonstrations, half with five operators."""
        return self._unique(generator("labelled", seed), num, (3, 5, 4, 5), False, "generated")

    @property
    def operators(self) -> tuple[Operator, ...]:
        def rewriting(
            change: Callable[[str, random.Random], str], harder: int
        ) -> Callable[[Problem, random.Random], Problem | None]:
            def apply(problem: Problem, rng: random.Random) -> Problem | None:
                text = change(problem.text, rng)
                least = HARD[0] if harder else min(HARD[0], num_operators(problem.text))
                is_fitting = least <= num_operators(text) <= MAX_OPERATORS and _is_small(text)
                return self.problem(text, "") if is_fitting else None

            return apply

        return tuple(
            Operator(name, rewriting(change, harder), harder, name == "reorder")
            for name, (change, harder) in REWRITINGS.items()
        )

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        """As easy as the demonstrations, so that forgetting shows."""
        problems = self._unique(generator("worked", seed), num, EASY, True, "generated")
        return [Demonstration(p, _as_steps(solution(p.text))) for p in problems]

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        rng = generator("demonstrations", seed)
        problems = self._unique(rng, num * 18 // 19, EASY, False, "generated")
        problems += self._unique(rng, num - num * 18 // 19, (5,), False, "generated")
        return [Demonstration(p, _as_steps(solution(p.text))) for p in problems]


def _as_steps(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line + ("\n" if i < len(lines) - 1 else "") for i, line in enumerate(lines))


def _turns(levels: Sequence[int], num: int) -> Iterator[int]:
    return (levels[i % len(levels)] for i in range(num))
