"""The Game of 24: combine four numbers with + - * / so that 24 comes out, each used once.

    4 5 6 10
    10-4=6: 5 6 6
    5*6=30: 6 30
    30-6=24

A step names two numbers, what they make, and what is left, in order. Fractions are written `8_3`.
The tool knows the rules of the game and nothing else: that the two numbers are there, that the
arithmetic holds, that the rest is listed, that the last number is 24. It cannot tell whether a
position can still be won. Solutions of other puzzles, found by enumeration, are demonstrations.

Held out are ranks 901 to 1000 of the published order (by human solving time at 4nums.com), the set
of Yao et al. (2023), "Tree of Thoughts".
"""

import random
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement

from agent.tasks.operators import Operator
from agent.tasks.task import Demonstration, Task, generator, problem_id
from critics.calculator import CalculatorError, calculate
from search.errors import TaskError
from search.score import Finding
from search.state import Problem

TARGET = Fraction(24)
LARGEST = 13

_RANKS_901_TO_1000 = """
    4-5-6-10 1-2-4-7 2-5-8-11 3-4-4-13 6-7-8-9 1-11-11-13 1-8-10-11 2-3-6-9 1-3-5-9 3-3-7-12
    4-5-7-9 1-2-8-13 4-6-6-9 1-4-4-8 1-5-10-11 3-4-6-11 2-4-8-9 1-4-5-13 2-2-7-12 3-3-6-7
    1-5-9-13 5-6-7-13 5-5-8-10 2-4-6-12 6-7-8-11 7-9-9-13 3-6-9-12 6-9-12-13 4-7-9-13 5-6-8-12
    2-4-6-7 2-5-10-10 6-6-7-12 6-9-9-11 5-8-11-12 5-6-8-10 6-11-12-13 2-2-8-8 2-7-12-13
    2-6-8-12 3-4-9-13 4-5-10-12 1-2-7-11 4-5-6-8 6-10-12-13 1-3-9-9 1-4-4-11 2-3-9-10 1-2-3-13
    1-6-6-6 1-2-2-9 1-3-6-11 5-10-12-13 2-3-6-6 6-7-10-12 7-8-8-12 3-4-6-8 1-7-9-11 2-3-6-13
    2-2-5-12 2-6-8-13 8-8-10-12 1-3-8-13 4-4-7-10 1-7-10-13 1-9-10-13 3-3-4-11 2-5-7-7
    3-9-10-13 2-3-4-7 4-4-8-12 1-2-6-10 1-5-12-12 5-6-6-8 7-7-8-11 1-3-7-10 3-3-9-12 3-5-7-10
    4-10-12-13 2-3-10-12 3-4-6-6 5-8-8-8 6-8-8-12 2-3-4-9 2-6-7-11 5-9-12-12 1-2-7-12 2-4-5-6
    5-5-8-13 2-3-3-10 3-4-8-12 2-4-6-11 2-2-8-9 1-5-6-7 5-8-10-11 4-4-9-12 2-5-6-6 2-4-9-12
    4-8-11-13 4-9-10-13
"""
HELD_OUT = tuple(puzzle.replace("-", " ") for puzzle in _RANKS_901_TO_1000.split())

Numbers = tuple[Fraction, ...]
"""In ascending order."""

_NUMBER = r"-?\d{1,6}(?:_\d{1,6})?"
_STEP = re.compile(rf"({_NUMBER})([-+*/])({_NUMBER})=({_NUMBER})(?:: ({_NUMBER}(?: {_NUMBER})*))?")
_PUZZLE = re.compile(r"\d{1,2}( \d{1,2}){3}")


def written(number: Fraction) -> str:
    return str(number).replace("/", "_")


def parsed(text: str) -> Fraction | None:
    """None for a fraction whose denominator is 0."""
    top, _, bottom = text.partition("_")
    return Fraction(int(top), int(bottom or 1)) if int(bottom or 1) else None


def _made(left: Fraction, sign: str, right: Fraction) -> Fraction | None:
    if sign == "+":
        return left + right
    if sign == "-":
        return left - right
    if sign == "*":
        return left * right
    return left / right if right else None


def _moves(numbers: Numbers) -> Iterator[tuple[Fraction, str, Fraction, Numbers]]:
    """Every different step: (left, sign, right, numbers after it)."""
    for i, j in combinations(range(len(numbers)), 2):
        small, large = numbers[i], numbers[j]
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        pairs = [(large, "+", small), (large, "-", small), (large, "*", small)]
        pairs += [(large, "/", small)] if small else []
        pairs += [(small, "/", large)] if large and large != small else []
        for left, sign, right in pairs:
            value = _made(left, sign, right)
            if value is not None:
                yield left, sign, right, tuple(sorted([*rest, value]))


@cache
def _winning(numbers: Numbers) -> tuple[tuple[Fraction, str, Fraction, Numbers], ...]:
    """Steps after which 24 can still be reached; for demonstrations only.

    Steps into fractions are named only where no other step wins.
    """
    found = dict.fromkeys(
        move
        for move in _moves(numbers)
        if (move[3] == (TARGET,) if len(numbers) == 2 else bool(_winning(move[3])))
    )
    whole = [m for m in found if all(n.denominator == 1 for n in m[3])]
    return tuple(whole or found)


@cache
def _puzzles() -> tuple[str, ...]:
    """All solvable puzzles that are not held out."""
    every = combinations_with_replacement(range(1, LARGEST + 1), 4)
    return tuple(
        text
        for numbers in every
        if (text := " ".join(map(str, numbers))) not in HELD_OUT
        and _winning(tuple(map(Fraction, numbers)))
    )


def _line(left: Fraction, sign: str, right: Fraction, after: Numbers) -> str:
    value = _made(left, sign, right)
    assert value is not None
    made = f"{written(left)}{sign}{written(right)}={written(value)}"
    return made if len(after) == 1 else f"{made}: {' '.join(map(written, after))}"


class Game24(Task):
    name = "game24"
    proves = "texts"
    tool = "rules"

    @property
    def operators(self) -> tuple[Operator, ...]:
        return ()

    def read(self, text: str) -> str:
        text = " ".join(text.replace(",", " ").split())
        if not _PUZZLE.fullmatch(text) or any(not 1 <= int(n) <= LARGEST for n in text.split()):
            raise TaskError(
                f"{text[:80]!r} is not a puzzle of four numbers from 1 to {LARGEST}",
                "write something like 4 5 6 10, or choose another task with --task",
            )
        return " ".join(sorted(text.split(), key=int))

    def key(self, text: str) -> str:
        return " ".join(sorted(text.split(), key=int))

    def answer_of(self, steps: Sequence[str]) -> str | None:
        """The steps as one expression of the numbers they began with."""
        pool: list[tuple[str, str]] = []
        for i, step in enumerate(steps):
            match = _STEP.fullmatch(step.strip())
            if match is None:
                return None
            left, sign, right, value, rest = match.groups()
            if i == 0:
                others = (rest or "").split()
                if value in others:
                    others.remove(value)
                pool = [(n, n.replace("_", "/")) for n in (left, right, *others)]
            names: list[str] = []
            for number in (left, right):
                known = next((p for p in pool if p[0] == number), None)
                if known is None:
                    return None
                pool.remove(known)
                names.append(known[1])
            pool.append((value, f"({names[0]}{sign}{names[1]})"))
        return pool[0][1] if len(pool) == 1 else None

    def same_answer(self, left: str, right: str) -> bool:
        return left == right

    def is_correct(self, answer: str | None, reference: str) -> bool:
        """The expression is 24 and uses the numbers of the puzzle, which is the reference."""
        if answer is None or sorted(re.findall(r"\d+", answer)) != sorted(reference.split()):
            return False
        try:
            return calculate(answer) == TARGET
        except CalculatorError:
            return False

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        before = self._left(text, steps[:-1])
        match = _STEP.fullmatch(steps[-1].strip())
        if match is None or before is None:
            return Finding(False, "not a step of the game")
        left, sign, right, value = parsed(match[1]), match[2], parsed(match[3]), parsed(match[4])
        if left is None or right is None or value is None:
            return Finding(False, "a fraction over 0")
        pool = list(before)
        for number in (left, right):
            if number not in pool:
                return Finding(False, f"{written(number)} is not there")
            pool.remove(number)
        if _made(left, sign, right) != value:
            return Finding(False, "the arithmetic is wrong")
        rest = [parsed(n) for n in (match[5] or "").split()]
        if rest != (sorted([*pool, value]) if pool else []):
            return Finding(False, "what is left is not listed")
        if not pool and value != TARGET:
            return Finding(False, "24 is not reached")
        if not pool and steps[-1].endswith("\n"):
            return Finding(False, "goes on after the end")
        return Finding(True, "by the rules")

    def _left(self, text: str, steps: Sequence[str]) -> Numbers | None:
        """Numbers that are left after the steps; None when a step does not say."""
        listed = steps[-1].partition(":")[2] if steps else text
        found = [parsed(n) for n in listed.split() if re.fullmatch(_NUMBER, n)]
        numbers = tuple(n for n in found if n is not None)
        return numbers if len(numbers) == len(listed.split()) and numbers else None

    def problem(self, text: str, origin: str = "given") -> Problem:
        return Problem(problem_id(self.name, self.key(text)), text, text, origin)

    def _drawn(self, num: int, rng: random.Random, known: set[str]) -> list[Problem]:
        puzzles = [p for p in _puzzles() if p not in known]
        rng.shuffle(puzzles)
        return [self.problem(p) for p in puzzles[:num]]

    def seeds(self, num: int, seed: int) -> list[Problem]:
        return self._drawn(num, generator("game24-seeds", seed), set())

    def held_out(self, num: int, seed: int) -> list[Problem]:
        """Ranks 901 to 1000 in their order, whatever the seed."""
        return [self.problem(p) for p in HELD_OUT[:num]]

    def labelled(self, num: int, seed: int) -> list[Problem]:
        return self._drawn(num, generator("game24-labelled", seed), set())

    def given(self, seed: int) -> list[Problem]:
        """There are 1,262 other puzzles and no more, so no operator makes any."""
        return self._drawn(len(_puzzles()), generator("game24-imagine", seed), set())

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        rng = generator("game24-worked", seed)
        return [Demonstration(p, _won(p.text, rng)) for p in self.held_out(num, seed)]

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        """Different winning lines, the puzzles taking turns; fewer when they run out."""
        rng = generator("game24-demonstrations", seed)
        found: dict[tuple[str, tuple[str, ...]], None] = {}
        puzzles = _puzzles()
        for _ in range(40):
            for puzzle in puzzles:
                if len(found) >= num:
                    break
                found[puzzle, _won(puzzle, rng)] = None
        return [Demonstration(self.problem(p), lines) for p, lines in found]


def _won(puzzle: str, rng: random.Random) -> tuple[str, ...]:
    """One winning line, each winning step equally likely."""
    numbers: Numbers = tuple(Fraction(n) for n in puzzle.split())
    lines: list[str] = []
    while len(numbers) > 1:
        left, sign, right, after = rng.choice(_winning(numbers))
        lines.append(_line(left, sign, right, after))
        numbers = after
    return tuple(line + ("\n" if i < len(lines) - 1 else "") for i, line in enumerate(lines))
