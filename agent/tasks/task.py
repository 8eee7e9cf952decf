"""What a problem domain says of itself, with defaults for all that most domains share."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent.tasks.operators import Operator
from critics.answer import final_answer
from critics.equality import normal_form, same_answer
from critics.working import Question
from search.boundary import NEWLINE, Boundary
from search.errors import TaskError
from search.merge import StepClaim
from search.score import Finding
from search.state import Problem

MAX_PROBLEM_CHARACTERS = 20_000
DRAWS = 200
"""Tries for each problem that is drawn."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A worked problem: the prompt and its steps, each step ending as the model should end it."""

    problem: Problem
    steps: tuple[str, ...]


Proves = Literal["nothing", "texts", "steps"]


class Task:
    """A problem source, a step boundary, an answer checker and a tool for the critics.

    The last step ends with the end of the text, each other one at the boundary. A task of one's
    own needs `name`, `draw` and, where a rule can judge, `is_correct` or `check_step`; all else has
    a default (docs/tasks.md has a complete example). One object serves several threads.
    """

    name: str = ""
    boundary: Boundary = NEWLINE
    """Where a step ends, unless the search's settings name another."""
    tool: str = ""
    """Name of the tool behind `check_step`; empty when there is none."""
    proves: Proves = "nothing"
    """What the tool proves where it finds something sound: `texts`: a finished text is right, so
    that a search may end with it; `steps`: each step leads to a right answer, too, so that a search
    has no reason to leave it."""
    gives_answers: bool = False
    """Whether answers of its given problems are the user's own, so that they may decide what is
    learned; where a generator makes problems, answers are for reports alone."""
    answer_rule: str = "auto"
    """By which two answers are equal, where a user may choose."""
    instruction: str = ""
    """What to do, told before each problem; empty where the problem says all."""

    def draw(self, rng: random.Random) -> tuple[str, str | None]:
        """A problem of the task and its reference answer, None where nobody knows it."""
        raise NotImplementedError(f"task {self.name!r} has no draw(rng)")

    # --- texts ---

    def read(self, text: str) -> str:
        """The problem in its normal form. Raises TaskError for what is not a problem."""
        return check_text(text).strip()

    def question(self, text: str) -> str:
        """A problem as it stands in a plain prompt, right before its first step."""
        return text + "\n"

    def pictures(self, text: str) -> tuple[str, ...]:
        """Digests of a problem's pictures, which stand before its words. They are kept in
        `hosting.pictures` from then on."""
        return ()

    def prompt(self, text: str) -> str:
        """The plain prompt: what a model is given before its first step."""
        return (self.instruction + "\n\n" if self.instruction else "") + self.question(text)

    def key(self, text: str) -> str:
        """Equal for two problems exactly when they count as the same one."""
        return " ".join(text.lower().split())

    # --- judging ---

    def answer_of(self, steps: Sequence[str]) -> str | None:
        """Final answer of a finished text; None when it has none."""
        found = final_answer("".join(steps))
        return None if found is None else normal_form(found)

    def same_answer(self, left: str, right: str) -> bool:
        """Whether two final answers are equal: votes count values by it."""
        return left == right or same_answer(left, right)

    def is_correct(self, answer: str | None, reference: str) -> bool:
        return answer is not None and self.same_answer(answer, reference)

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        """What the tool says of the last of `steps`, given the problem and those before it."""
        return Finding(None, "no tool")

    def questions(self, text: str, steps: Sequence[str]) -> tuple[Question, ...] | None:
        """What the last of `steps` claims, to be worked out again in writing by a checker; empty
        where it claims nothing of the kind, None where it is no step from what stands before it.
        Nothing is worked out here."""
        return ()

    def claim_of(self, step: str) -> StepClaim | None:
        """What a step claims; None where that cannot be read, and its words alone count."""
        return None

    def doubts(self, text: str, steps: Sequence[str]) -> tuple[float, ...]:
        """What speaks against a finished answer of several, a number each from 0 to 1; always as
        many. A round weighs them, on labelled problems, beside what its models say."""
        return ()

    def variant(
        self, text: str, steps: Sequence[str], rng: random.Random
    ) -> tuple[str, tuple[str, ...]] | None:
        """Another problem and its steps, right if these are; None where there is none."""
        return None

    # --- problems ---

    def new_problem(self, text: str, answer: str | None, origin: str) -> Problem:
        return Problem(problem_id(self.name, self.key(text)), text, answer, origin)

    def keeps_out(self, key: str) -> bool:
        """Whether a problem of this key may be evaluated on only, never learned from."""
        return is_held_out(key)

    def drawn(self, purpose: str, num: int, seed: int, held_out: bool = False) -> list[Problem]:
        """`num` different drawn problems of one side of the split; fewer when they run out."""
        rng = generator(self.name, purpose, seed)
        found: dict[str, Problem] = {}
        for _ in range(DRAWS * num):
            if len(found) == num:
                break
            text, answer = self.draw(rng)
            if self.keeps_out(self.key(text)) == held_out:
                found.setdefault(self.key(text), self.new_problem(text, answer, "generated"))
        return list(found.values())

    def seeds(self, num: int, seed: int) -> list[Problem]:
        """Problems to start from, none of them held out."""
        return self.drawn("seeds", num, seed)

    def held_out(self, num: int, seed: int) -> list[Problem]:
        """Problems kept for evaluation, with answers; never among seeds or imagined ones."""
        found = self.drawn("held-out", min(num, 10_000), seed, held_out=True)
        return [p for p in found if p.answer is not None]

    def labelled(self, num: int, seed: int) -> list[Problem]:
        """Problems with answers from which critics may learn, none of them held out."""
        return [p for p in self.drawn("labelled", num, seed) if p.answer is not None]

    def given(self, seed: int) -> list[Problem]:
        """Problems that are there to be searched before any is made, none of them held out."""
        return []

    @property
    def operators(self) -> tuple[Operator, ...]:
        """Ways to make new problems from old ones; by default another one is drawn."""

        def another(problem: Problem, rng: random.Random) -> Problem | None:
            text, answer = self.draw(rng)
            return self.new_problem(text, answer, "")

        return (Operator("draw", another),)

    def written(self, text: str) -> Problem:
        """A problem that a model wrote. Raises TaskError for what is none of this task."""
        raise TaskError(f"task {self.name!r} makes its own problems", "use --task jsonl")

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        """Held-out worked problems: text that the policy should still find likely after a round.
        Empty where there are none."""
        return []

    def lessons(self) -> list[Demonstration]:
        """Worked problems that a policy may be taught the form of answers with; empty without."""
        return []

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        """Worked problems to replay in training; empty where there are none."""
        return []

    def examples(self) -> list[Demonstration]:
        """Worked problems shown in prompts, kept out of everything else; empty without any."""
        return []

    def worked_texts(self) -> list[str]:
        """Worked answers that are no secret: how long answers are. Empty without any."""
        return []

    def notes(self) -> list[str]:
        """What a user should know of the problems before a run: rows left out, repeated ones."""
        return []


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
    check_characters(text, "the problem")
    return text


def check_characters(text: str, what: str) -> None:
    """Refuse what a database or a tokenizer cannot hold."""
    if "\0" in text:
        raise TaskError(f"{what} contains a NUL character", "remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"{what} holds {text[error.start]!r}, which is not valid Unicode text",
            "save the file as UTF-8",
        ) from error


def generator(*parts: object) -> random.Random:
    """A random generator that depends on the parts alone."""
    return random.Random("\0".join(map(str, parts)))
