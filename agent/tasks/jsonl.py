"""Real data: one JSON object a line, in GSM8K's form or {"problem", "answer"}.

    {"question": "Natalia sold ...", "answer": "She sold 48/2 = <<48/2=24>>24 ...\\n#### 72"}
    {"problem": "Find the value of ...", "answer": "\\\\frac{3}{4}"}

The calculator checks the equations that a step claims, sympy those of algebra between dollars;
math-verify compares final answers.
"""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.tasks.algebra import Algebra
from agent.tasks.operators import Operator
from agent.tasks.task import Demonstration, check_text, generator, is_held_out, problem_id
from agent.tasks.verifier import Verifier
from critics.answer import final_answer, normal_form, same_answer
from critics.calculator import equation_holds
from search.boundary import NEWLINE
from search.errors import TaskError
from search.score import Finding
from search.state import Problem

_VALUE = r"\d[\d,]*(?:\.\d+)?"
_CLAIM = re.compile(rf"<<([^<>=]+=[^<>=]+)>>|({_VALUE}(?:\s*[-+*/×÷]\s*{_VALUE})+\s*=\s*{_VALUE})")
_FORMULA = re.compile(r"\$([^$]{3,300})\$")
_ASKS_X = re.compile(r"value of x\?")
_INTEGER = re.compile(r"(?<![\d.,])\d{1,4}(?![\d.,%])")
_TEMPLATE = (
    "Solve the problem step by step, one step a line. "
    "End with a line '#### ' followed by the answer.\n\nProblem: {text}\nSolution:\n"
)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, checked. Raises TaskError naming file, line and value."""
    if not path.is_file():
        raise TaskError(f"problem file {str(path)!r} is not there", "give a JSONL file")
    rows = []
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                rows.append(_read_row(path, number, raw))
    if not rows:
        raise TaskError(f"{path} holds no problems", "write one JSON object a line")
    return rows


def _read_row(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    where = f"{path}, line {number}"
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TaskError(f"{where} is not UTF-8: {error}", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is not JSON: {error}", "write one JSON object a line") from error
    if not isinstance(row, dict):
        raise TaskError(f"{where} is a {type(row).__name__}, not an object", "write {...}")
    text = row.get("question", row.get("problem"))
    if not isinstance(text, str):
        raise TaskError(
            f"{where} has no 'question' or 'problem' text (keys: {sorted(row)[:6]})",
            'add "question": "..."',
        )
    try:
        text = check_text(text)
    except TaskError as error:
        raise TaskError(f"{where}: {error.message}", error.fix) from error
    answer = row.get("answer")
    if answer is not None and not isinstance(answer, str | int | float):
        raise TaskError(f"{where} has an answer of type {type(answer).__name__}", "make it a text")
    reference = None if answer is None else str(answer)
    if reference is not None and "question" in row and isinstance(answer, str):
        reference = final_answer(reference)
        if reference is None:
            raise TaskError(
                f"{where} has an answer without a final line '#### ...': {str(answer)[-60:]!r}",
                "end the answer with '#### ' and the value, or use the key 'problem'",
            )
    if reference is not None and not reference.strip():
        raise TaskError(f"{where} has an empty answer", "fill it in or leave the key out")
    return {"text": text, "answer": reference, "worked": row.get("answer")}


SYSTEM_MESSAGES = (
    "You are a careful teacher. Explain every step before you give the answer.",
    "You check each calculation twice and write one step a line.",
    "Explain as if to a child of ten, leaving nothing out.",
)


class Jsonl:
    name = "jsonl"
    boundary = NEWLINE
    tool = "calculator"

    def __init__(self, path: Path) -> None:
        self.rows = read_rows(path)
        self.verifier = Verifier()
        self.algebra = Algebra()
        self._problems = [self._problem(r["text"], r["answer"], "given") for r in self.rows]

    def _problem(self, text: str, answer: str | None, origin: str) -> Problem:
        return Problem(problem_id(self.name, self.key(text)), text, answer, origin)

    def read(self, text: str) -> str:
        return check_text(text).strip()

    def prompt(self, text: str) -> str:
        return _TEMPLATE.format(text=text)

    def key(self, text: str) -> str:
        return " ".join(text.lower().split())

    def answer_of(self, steps: Sequence[str]) -> str | None:
        found = final_answer("".join(steps))
        return None if found is None else normal_form(found)

    def is_correct(self, answer: str | None, reference: str) -> bool:
        if answer is None:
            return False
        quick = same_answer(answer, reference)
        return self.verifier.is_equal(answer, reference) if quick is None else quick

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        claims = ["".join(groups) for groups in _CLAIM.findall(steps[-1])]
        verdicts = [(claim, equation_holds(claim)) for claim in claims]
        # What stands between dollars is algebra: sympy is asked where the calculator cannot tell.
        for claim in _FORMULA.findall(steps[-1]):
            if claim.count("=") == 1 and equation_holds(claim) is None:
                verdicts.append((claim.strip(), self.algebra.equation_holds(claim)))
        for claim, holds in verdicts:
            if holds is False:
                return Finding(False, f"{claim} is false")
        known = [c for c, holds in verdicts if holds]
        return Finding(True, f"{known[0]} holds") if known else Finding(None, "no equation")

    def _split(self, held_out: bool, num: int, seed: int, purpose: str) -> list[Problem]:
        """Distinct problems of one side of the split; a file too small for it gives every tenth."""
        unique = {p.id: p for p in self._problems}
        side = [p for p in unique.values() if is_held_out(self.key(p.text)) == held_out]
        if held_out:
            side = [p for p in side if p.answer is not None]
        return generator(purpose, seed).sample(side, min(num, len(side)))

    def seeds(self, num: int, seed: int) -> list[Problem]:
        return self._split(False, num, seed, "seeds")

    def held_out(self, num: int, seed: int) -> list[Problem]:
        found = self._split(True, num, seed, "held-out")
        if not found:
            raise TaskError(
                f"none of the {len(self.rows)} problems falls into the held-out tenth",
                "give a file with more problems that have answers (40 or more)",
            )
        return found

    def labelled(self, num: int, seed: int) -> list[Problem]:
        side = self._split(False, len(self._problems), seed, "labelled")
        return [p for p in side if p.answer is not None][:num]

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        """The file's own worked answers of held-out problems, where it gives them."""
        texts = {
            problem_id(self.name, self.key(row["text"])): str(row["worked"])
            for row in self.rows
            if "\n" in str(row["worked"] or "")
        }
        return [
            Demonstration(p, tuple(texts[p.id].splitlines(keepends=True)))
            for p in self.held_out(num, seed)
            if p.id in texts
        ]

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        return []

    def given(self, seed: int) -> list[Problem]:
        """The file's own problems."""
        return self.seeds(len(self._problems), seed)

    @property
    def operators(self) -> tuple[Operator, ...]:
        def rewriting(
            change: Callable[[Problem, random.Random], tuple[str, str | None] | None],
        ) -> Callable[[Problem, random.Random], Problem | None]:
            def apply(problem: Problem, rng: random.Random) -> Problem | None:
                made = change(problem, rng)
                return None if made is None else self._problem(*made, "")

            return apply

        return tuple(
            Operator(name, rewriting(change), keeps_answer=name == "orca")
            for name, change in REWRITINGS.items()
        )

    def written(self, text: str) -> Problem:
        """A problem that a model wrote; nobody knows its answer."""
        return self._problem(check_text(text), None, "")


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
