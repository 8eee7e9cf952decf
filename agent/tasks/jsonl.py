"""Problems of a file: word problems, mathematics, or anything with an answer to compare.

The calculator checks the equations that a step claims, sympy those of algebra in formulas; answers
are compared by the rule that is set (critics/equality.py), where mathematics is at stake by
math-verify.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.pictures.folder import PictureFolder
from agent.tasks.algebra import Algebra
from agent.tasks.operators import Operator
from agent.tasks.pictured import picture_parts
from agent.tasks.renumbered import renumbered
from agent.tasks.rewritings import REWRITINGS
from agent.tasks.rows import OnBad, Row, keys_of, read_rows
from agent.tasks.task import Demonstration, Task, check_text, generator, is_held_out
from agent.tasks.verifier import Verifier
from critics.answer import final_answer
from critics.claims import Claim, claims, is_hedged
from critics.equality import AnswerRule, normal_form, same_answer
from critics.formulas import formula_claims, parted
from critics.grounding import grounding
from critics.working import Question, question_of
from search.errors import TaskError
from search.merge import StepClaim
from search.score import Finding
from search.state import Problem

_BLANK = re.compile(r"[\s$€£,]+")
"""What equal equations may differ in."""
_OPERATION = re.compile(r"(-?[\d.]+)([-+*/×÷x])([\d.]+)=(-?[\d.]+)")
ANNOTATION = re.compile(r"<<[^<>\n]{0,200}>>")
"""What GSM8K puts before each result for a calculator that fills it in."""
INSTRUCTION = (
    "Solve the problem step by step, one step a line. "
    "End with a line '#### ' followed by the answer."
)


@dataclass(frozen=True, slots=True)
class Files:
    """Where the rows come from. One of `problems` and `held_out` is needed."""

    problems: str
    """Learned from; empty for who only evaluates."""
    held_out: str = ""
    """Evaluated on, and nothing else; empty: a tenth of `problems`."""
    labelled: str = ""
    """What critics learn from; empty: the problems that have answers."""
    examples: str = ""
    """Worked problems for prompts."""
    num_examples: int = 4
    on_bad: OnBad = "refuse"


class Jsonl(Task):
    name = "jsonl"
    tool = "calculator"
    instruction = INSTRUCTION
    gives_answers = True

    def __init__(
        self, files: Files, rule: AnswerRule = "auto", pictures: Path | None = None
    ) -> None:
        """`pictures` is the folder that pictures of rows are kept in; None: rows have none."""
        self._folder = PictureFolder(pictures) if pictures else None
        self.files = files
        self.rule: AnswerRule = rule
        self.answer_rule = rule
        self.verifier = Verifier()
        self.algebra = Algebra()
        self._notes: list[str] = []
        self.rows = self._read(files.problems) if files.problems else ()
        self._held_out = self._read(files.held_out) if files.held_out else ()
        self._labelled = self._read(files.labelled) if files.labelled else ()
        self._shown = self._read_examples(files)
        self._held_out_keys = keys_of(self._held_out, self.key)
        self._shown_keys = keys_of(self._shown, self.key)
        num = sum(self.key(row.text) in self._held_out_keys for row in self.rows)
        if num:
            self._notes.append(
                f"{num} of {len(self.rows)} problems of {files.problems} are of {files.held_out}, "
                "too: they are evaluated on and not learned from"
            )

    def _read(self, source: str) -> tuple[Row, ...]:
        found = read_rows(source, self.files.on_bad, self.key, self.same_answer, self._folder)
        if found.skipped:
            num = len(found.skipped)
            rows = "a row was" if num == 1 else f"{num} rows were"
            self._notes.append(f"{rows} left out of {source}, the first: {found.skipped[0]}")
        unanswered = sum(row.answer is None for row in found.rows)
        if 0 < unanswered < len(found.rows):
            self._notes.append(f"{unanswered} of {len(found.rows)} rows of {source} have no answer")
        if found.num_repeated:
            self._notes.append(f"{source} repeats {found.num_repeated} problems; each counts once")
        return found.rows

    def _read_examples(self, files: Files) -> tuple[Row, ...]:
        if not files.examples:
            return ()
        worked = [row for row in self._read(files.examples) if row.worked is not None]
        if not worked:
            raise TaskError(
                f"{files.examples} has no worked answers to show",
                'give rows such as {"question": "...", "answer": "step\\n#### 5"}',
            )
        return tuple(worked[: files.num_examples])

    def notes(self) -> list[str]:
        return self._notes

    def read(self, text: str) -> str:
        text = check_text(text).strip()
        for digest in self.pictures(text):
            if self._folder is None:
                raise TaskError("the question names a picture, and there is no folder of pictures")
            self._folder.get(digest)
        return text

    def question(self, text: str) -> str:
        return f"Problem: {picture_parts(text)[1]}\nSolution:\n"

    def pictures(self, text: str) -> tuple[str, ...]:
        return picture_parts(text)[0]

    def new_problem(self, text: str, answer: str | None, origin: str) -> Problem:
        return replace(super().new_problem(text, answer, origin), pictures=self.pictures(text))

    # --- judging ---

    def answer_of(self, steps: Sequence[str]) -> str | None:
        found = final_answer("".join(steps))
        return None if found is None else normal_form(found, self.rule)

    def same_answer(self, left: str, right: str) -> bool:
        return left == right or same_answer(left, right, self.rule, self.verifier.is_equal)

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        step = steps[-1]
        if "=" not in step:
            return Finding(None, "no equation")
        found = parted(step)
        told: list[Claim] = claims(found.prose)
        doubt = is_hedged(step)
        for chain in found.chains:
            told += formula_claims(chain, self.algebra.holds, doubt)
        for claim in told:
            if claim.holds is False:
                return Finding(False, f"{claim.text} is false")
        known = [claim.text for claim in told if claim.holds]
        return Finding(True, f"{known[0]} holds") if known else Finding(None, "no equation")

    def questions(self, text: str, steps: Sequence[str]) -> tuple[Question, ...] | None:
        """Its equations of one operation between two numbers; what else it claims is not asked, and
        nothing of a line that says itself that it may be wrong."""
        if "=" not in steps[-1] or is_hedged(steps[-1]):
            return ()
        found = (_OPERATION.fullmatch(_BLANK.sub("", c.text)) for c in claims(steps[-1]))
        asked = (question_of(*match.groups()) for match in found if match)
        return tuple(question for question in asked if question is not None)

    def claim_of(self, step: str) -> StepClaim | None:
        """Its equations: the last side is the result. A line that gives the answer claims that."""
        if "=" not in step:
            answer = final_answer(step)
            return None if answer is None else StepClaim("answer", normal_form(answer, self.rule))
        found = parted(step)
        sides = [claim.text.split("=") for claim in claims(found.prose)] + [*found.chains]
        if not sides:
            return None
        plain = [[_BLANK.sub("", side) for side in chain] for chain in sides]
        return StepClaim(";".join("=".join(c[:-1]) for c in plain), ";".join(c[-1] for c in plain))

    def doubts(self, text: str, steps: Sequence[str]) -> tuple[float, ...]:
        """How the answer stands to the question's numbers."""
        return grounding(picture_parts(text)[1], steps).doubts

    # --- problems ---

    def keeps_out(self, key: str) -> bool:
        if key in self._shown_keys:
            return True
        return key in self._held_out_keys if self._held_out else is_held_out(key)

    def _problems(self, rows: Sequence[Row]) -> list[Problem]:
        return [self.new_problem(row.text, row.answer, "given") for row in rows]

    def _sample(self, side: Sequence[Problem], num: int, seed: int, purpose: str) -> list[Problem]:
        return generator(purpose, seed).sample(side, min(num, len(side)))

    def _learnable(self, rows: Sequence[Row]) -> list[Problem]:
        return [p for p in self._problems(rows) if not self.keeps_out(self.key(p.text))]

    def seeds(self, num: int, seed: int) -> list[Problem]:
        return self._sample(self._learnable(self.rows), num, seed, "seeds")

    def held_out(self, num: int, seed: int) -> list[Problem]:
        """A draw of the held-out file, else of a tenth of the problems: those with answers."""
        rows = self._held_out or self.rows
        side = [
            p
            for p in self._problems(rows)
            if p.answer is not None
            and self.keeps_out(self.key(p.text))
            and self.key(p.text) not in self._shown_keys
        ]
        if not side:
            name = self.files.held_out or self.files.problems
            what = (
                f"none of the {len(rows)} problems of {name} has an answer"
                if self._held_out
                else f"none of the {len(rows)} problems falls into the held-out tenth"
            )
            raise TaskError(
                what,
                "give a file with more problems that have answers (40 or more), or --held-out FILE",
            )
        return self._sample(side, num, seed, "held-out")

    def labelled(self, num: int, seed: int) -> list[Problem]:
        side = self._learnable(self._labelled or self.rows)
        drawn = self._sample(side, len(side), seed, "labelled")
        return [p for p in drawn if p.answer is not None][:num]

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        """The file's own worked answers of held-out problems, where it gives them."""
        texts = {
            self.new_problem(row.text, None, "").id: row.worked
            for row in (self._held_out or self.rows)
            if row.worked is not None
        }
        return [
            Demonstration(p, tuple(texts[p.id].splitlines(keepends=True)))
            for p in self.held_out(num, seed)
            if p.id in texts
        ]

    def examples(self) -> list[Demonstration]:
        return [
            Demonstration(p, tuple((row.worked or "").splitlines(keepends=True)))
            for p, row in zip(self._problems(self._shown), self._shown, strict=True)
        ]

    def worked_texts(self) -> list[str]:
        """All worked answers that may be learned from: how long an answer is."""
        return [
            row.worked
            for row in self.rows
            if row.worked is not None and not self.keeps_out(self.key(row.text))
        ]

    def lessons(self) -> list[Demonstration]:
        """The worked answers that may be learned from, without the calculator's annotations
        (`<<48/2=24>>`), and with a last line that says the answer where only the row does."""
        found = []
        for row in self.rows:
            if row.worked is None or self.keeps_out(self.key(row.text)):
                continue
            worked = ANNOTATION.sub("", row.worked).rstrip()
            if row.answer is not None and final_answer(worked) is None:
                worked += f"\n#### {row.answer.strip()}"
            steps = tuple(worked.splitlines(keepends=True))
            found.append(Demonstration(self.new_problem(row.text, row.answer, "given"), steps))
        return found

    def given(self, seed: int) -> list[Problem]:
        """The file's own problems."""
        return self.seeds(len(self.rows), seed)

    def variant(
        self, text: str, steps: Sequence[str], rng: random.Random
    ) -> tuple[str, tuple[str, ...]] | None:
        """With other numbers, worked in the same way; none of a problem whose picture says more."""
        return None if self.pictures(text) else renumbered(text, steps, rng)

    @property
    def operators(self) -> tuple[Operator, ...]:
        def rewriting(
            change: Callable[[Problem, random.Random], tuple[str, str | None] | None],
        ) -> Callable[[Problem, random.Random], Problem | None]:
            def apply(problem: Problem, rng: random.Random) -> Problem | None:
                made = None if self.pictures(problem.text) else change(problem, rng)
                return None if made is None else self.new_problem(*made, "")

            return apply

        return tuple(
            Operator(name, rewriting(change), keeps_answer=name == "orca")
            for name, change in REWRITINGS.items()
        )

    def written(self, text: str) -> Problem:
        """A problem that a model wrote; nobody knows its answer."""
        return self.new_problem(check_text(text), None, "")
