"""Find one line among hundreds and work it out: `kqz=` asks for the line `kqz=37+48-12`.

    abf=61-20+7
    kqz=37+48-12
    ...

    kqz=37+48-12
    85-12
    73

A long context matters here: what is written first stands in one place of thousands, the rest
follows from what was just written. The demonstrations are short (16 to 64 lines), the problems to
learn from and the held-out ones long (150 to 600 lines, 2,000 to 8,000 characters).

The calculator looks the line up and checks the steps below it as `expressions` does.
"""

import random
import re
import string
from collections.abc import Sequence
from functools import lru_cache

from agent.tasks.expressions import MAX_VALUE, Expressions, num_operators, solution, value_of
from agent.tasks.operators import Operator
from agent.tasks.task import Demonstration, Task, check_text, generator
from critics.working import Question
from search.errors import TaskError
from search.score import Finding
from search.state import Problem

SHORT = (16, 32, 64)
LONG = (150, 300, 600)
MAX_LINES = 1200
"""Of a ledger: what a problem's text may hold."""
OPERATORS = (1, 2)
NAME_LENGTH = 3

_LINE = re.compile(r"([a-z]{3})=(\d{1,2}(?:[-+]\d{1,2}){0,4})")
_QUESTION = re.compile(r"([a-z]{3})=?")

_steps = Expressions()


@lru_cache(maxsize=256)
def entries_of(text: str) -> dict[str, str]:
    """The ledger's lines by name. Raises TaskError for a text that is none."""
    lines = text.strip().split("\n")[:-1]
    found: dict[str, str] = {}
    for number, line in enumerate((x.strip() for x in lines), 1):
        if not line:
            continue
        matched = _LINE.fullmatch(line)
        if matched is None:
            raise TaskError(
                f"line {number} of the ledger is {line[:40]!r}",
                "write each as abc=37+48-12: three letters, then up to five numbers of two digits",
            )
        if matched[1] in found:
            raise TaskError(f"line {number} names {matched[1]!r} a second time", "leave one out")
        found[matched[1]] = matched[2]
    if not 0 < len(found) <= MAX_LINES:
        raise TaskError(
            f"the ledger has {len(found):,} lines", f"give 1 to {MAX_LINES:,} and a question"
        )
    return found


def asked(text: str) -> str:
    """The line that the last one asks for, without its name."""
    return entries_of(text)[text.rstrip("=").rpartition("\n")[2]]


def drawn_ledger(rng: random.Random, num_lines: int) -> str:
    """Lines with different names, ended by a blank one."""
    names: dict[str, None] = {}
    while len(names) < num_lines:
        names["".join(rng.choices(string.ascii_lowercase, k=NAME_LENGTH))] = None
    return "".join(f"{name}={_draw(rng)}\n" for name in names) + "\n"


def _draw(rng: random.Random) -> str:
    while True:
        text = str(rng.randint(1, MAX_VALUE))
        for _ in range(rng.choice(OPERATORS)):
            text += rng.choice("+-") + str(rng.randint(1, MAX_VALUE))
        if all(-MAX_VALUE <= value_of(line) <= MAX_VALUE for line in _partial_sums(text)):
            return text


def _partial_sums(text: str) -> list[str]:
    return [text[: found.end()] for found in re.finditer(r"\d+", text)]


class Ledger(Task):
    name = "ledger"
    tool = "calculator"
    proves = "steps"

    def read(self, text: str) -> str:
        lines = [line.strip() for line in check_text(text).split("\n") if line.strip()]
        question = _QUESTION.fullmatch(lines[-1]) if lines else None
        if question is None:
            raise TaskError(
                f"{text.strip()[-40:]!r} asks for no line of a ledger",
                "write lines such as abc=37+48-12 and the name asked for, abc=, in the last one",
            )
        read = "\n".join(lines[:-1]) + f"\n\n{question[1]}="
        if question[1] not in entries_of(read):
            raise TaskError(
                f"the ledger has no line {question[1]!r}",
                f"ask for one of its {len(entries_of(read)):,} names",
            )
        return read

    def question(self, text: str) -> str:
        return text

    def key(self, text: str) -> str:
        return text

    def answer_of(self, steps: Sequence[str]) -> str | None:
        return _steps.answer_of(steps)

    def same_answer(self, left: str, right: str) -> bool:
        return left == right

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        if len(steps) > 1:
            return _steps.check_step(steps[0].strip(), steps[1:])
        step = steps[0].strip() if steps else ""
        if step != asked(text):
            return Finding(False, "not what the ledger says")
        if not num_operators(step) and steps[0].endswith("\n"):
            return Finding(False, "goes on after the value")
        return Finding(True, "as the ledger says")

    def questions(self, text: str, steps: Sequence[str]) -> tuple[Question, ...] | None:
        if len(steps) > 1:
            return _steps.questions(steps[0].strip(), steps[1:])
        return () if steps and steps[0].strip() == asked(text) else None

    def problem(self, ledger: str, name: str, origin: str) -> Problem:
        made = self.new_problem(f"{ledger}{name}=", None, origin)
        entries = entries_of(made.text)
        return Problem(
            made.id, made.text, str(value_of(entries[name])), origin, difficulty=float(len(entries))
        )

    def _drawn(
        self, purpose: str, num: int, seed: int, sizes: Sequence[int], held_out: bool
    ) -> list[Problem]:
        rng = generator(self.name, purpose, seed)
        found: list[Problem] = []
        while len(found) < num:
            ledger = drawn_ledger(rng, sizes[len(found) % len(sizes)])
            problem = self.problem(ledger, rng.choice([*entries_of(ledger + "abc=")]), "generated")
            if self.keeps_out(problem.text) == held_out:
                found.append(problem)
        return found

    def seeds(self, num: int, seed: int) -> list[Problem]:
        return self._drawn("seeds", num, seed, LONG, False)

    def held_out(self, num: int, seed: int) -> list[Problem]:
        return self._drawn("held-out", num, seed, LONG, True)

    def labelled(self, num: int, seed: int) -> list[Problem]:
        return self._drawn("labelled", num, seed, SHORT, False)

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Another line of the same ledger, and the same question among twice as many lines."""

        def another(problem: Problem, rng: random.Random) -> Problem | None:
            ledger = problem.text.rpartition("\n")[0] + "\n"
            return self.problem(ledger, rng.choice([*entries_of(problem.text)]), "")

        def longer(problem: Problem, rng: random.Random) -> Problem | None:
            known = entries_of(problem.text)
            if 2 * len(known) > MAX_LINES:
                return None
            more = drawn_ledger(rng, len(known))
            lines = [line for line in more.split("\n") if line and line[:NAME_LENGTH] not in known]
            lines += [f"{name}={line}" for name, line in known.items()]
            rng.shuffle(lines)
            name = problem.text[-NAME_LENGTH - 1 : -1]
            return self.problem("\n".join(lines) + "\n\n", name, "")

        return Operator("another", another), Operator("longer", longer, 1, keeps_answer=True)

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        return [_worked(p) for p in self._drawn("worked", num, seed, SHORT, True)]

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        return [_worked(p) for p in self._drawn("demonstrations", num, seed, SHORT, False)]


def _worked(problem: Problem) -> Demonstration:
    return Demonstration(problem, worked_steps(asked(problem.text)))


def worked_steps(entry: str) -> tuple[str, ...]:
    """The line and the steps below it, each but the last one ended."""
    lines = [entry, *solution(entry)]
    return (*tuple(line + "\n" for line in lines[:-1]), lines[-1])
