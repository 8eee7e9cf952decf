"""Short arithmetic word problems, one equation a line, the answer last.

    Ann has 12 apples. She buys 7 more apples. How many apples does Ann have?
    12+7=19
    #19

One to four steps; amounts of two digits. The calculator checks that an equation holds, not that
it is the right one for the story, so here the critics matter.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.tasks.operators import Operator
from agent.tasks.task import Demonstration, Task, check_text, generator, is_held_out, problem_id
from critics.calculator import equation_holds
from critics.working import Question, question_of
from search.merge import StepClaim
from search.score import Finding
from search.state import Problem

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gina", "Hugo")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
MAX_AMOUNT = 99
LEVELS = (1, 2, 3, 4)

_ANSWER = re.compile(r"#(-?\d{1,9})")
_EQUATION = re.compile(r"(-?\d+)([-+*/])(\d+)=(-?\d+)")


@dataclass(frozen=True, slots=True)
class Event:
    """One sentence and the operation that it stands for."""

    sentence: str
    """With {name}, {things} and {n}."""
    operation: str
    numbers: tuple[int, int]
    """Smallest and largest amount."""


EVENTS = (
    Event("{name} buys {n} more {things}.", "+", (2, 60)),
    Event("{name} finds {n} {things}.", "+", (2, 40)),
    Event("A friend gives {name} {n} {things}.", "+", (2, 40)),
    Event("{name} gives away {n} {things}.", "-", (2, 60)),
    Event("{name} loses {n} {things}.", "-", (2, 30)),
    Event("{name} sells {n} {things}.", "-", (2, 60)),
    Event("Then {name} has {n} times as many {things}.", "*", (2, 5)),
    Event("{name} shares the {things} among {n} boxes and keeps one box.", "/", (2, 6)),
)


def _apply(total: int, event: Event, n: int) -> int | None:
    """Amount after the event; None where the story would not be sensible."""
    if event.operation == "+":
        after = total + n
    elif event.operation == "-":
        after = total - n
    elif event.operation == "*":
        after = total * n
    else:
        if total % n:
            return None
        after = total // n
    return after if 1 <= after <= MAX_AMOUNT else None


@dataclass(frozen=True, slots=True)
class Story:
    name: str
    things: str
    start: int
    events: tuple[tuple[int, int], ...]
    """Index of the event and its amount."""

    @property
    def text(self) -> str:
        parts = [f"{self.name} has {self.start} {self.things}."]
        for index, n in self.events:
            sentence = EVENTS[index].sentence
            parts.append(sentence.format(name=self.name, things=self.things, n=n))
        return " ".join([*parts, f"How many {self.things} does {self.name} have?"])

    def steps(self) -> list[str] | None:
        """The worked solution; None when some amount is out of bounds."""
        total, lines = self.start, list[str]()
        for index, n in self.events:
            after = _apply(total, EVENTS[index], n)
            if after is None:
                return None
            lines.append(f"{total}{EVENTS[index].operation}{n}={after}\n")
            total = after
        return [*lines, f"#{total}"]


def _draw(rng: random.Random, level: int) -> Story:
    while True:
        events = []
        for _ in range(level):
            index = rng.randrange(len(EVENTS))
            events.append((index, rng.randint(*EVENTS[index].numbers)))
        story = Story(rng.choice(NAMES), rng.choice(THINGS), rng.randint(2, 60), tuple(events))
        if story.steps() is not None:
            return story


_SENTENCES = [
    re.compile(
        re.escape(event.sentence)
        .replace(r"\{name\}", r"(?:\w+)")
        .replace(r"\{things\}", r"(?:\w+)")
        .replace(r"\{n\}", r"(\d+)")
    )
    for event in EVENTS
]


def parsed(text: str) -> Story | None:
    """The story behind a text in our own form; None for any other text."""
    head = re.match(r"(\w+) has (\d+) (\w+)\. ", text)
    if head is None:
        return None
    events: list[tuple[int, int]] = []
    for sentence in re.findall(r"[^.?]+[.?]", text[head.end() :])[:-1]:
        match = next(
            ((i, m) for i, p in enumerate(_SENTENCES) if (m := p.fullmatch(sentence.strip()))), None
        )
        if match is None:
            return None
        events.append((match[0], int(match[1][1])))
    story = Story(head[1], head[3], int(head[2]), tuple(events))
    return story if story.text == text else None


def _change_numbers(story: Story, rng: random.Random) -> Story:
    events = tuple((i, rng.randint(*EVENTS[i].numbers)) for i, _ in story.events)
    return Story(story.name, story.things, rng.randint(2, 60), events)


def _rephrase(story: Story, rng: random.Random) -> Story:
    """Other words for the same operations, another name, another thing."""
    events = []
    for index, n in story.events:
        same = [i for i, e in enumerate(EVENTS) if e.operation == EVENTS[index].operation]
        events.append((rng.choice(same), n))
    return Story(rng.choice(NAMES), rng.choice(THINGS), story.start, tuple(events))


def _harder(story: Story, rng: random.Random) -> Story:
    index = rng.randrange(len(EVENTS))
    event = (index, rng.randint(*EVENTS[index].numbers))
    return Story(story.name, story.things, story.start, (*story.events, event))


def _easier(story: Story, rng: random.Random) -> Story:
    return Story(story.name, story.things, story.start, story.events[:-1])


REWRITINGS: dict[str, tuple[Callable[[Story, random.Random], Story], int]] = {
    "change-numbers": (_change_numbers, 0),
    "rephrase": (_rephrase, 0),
    "harder": (_harder, 1),
    "easier": (_easier, -1),
}
"""Each with how it changes the number of steps."""


class Stories(Task):
    name = "stories"
    tool = "calculator"

    def read(self, text: str) -> str:
        return " ".join(check_text(text).split())

    def key(self, text: str) -> str:
        return text.lower()

    def answer_of(self, steps: Sequence[str]) -> str | None:
        match = _ANSWER.fullmatch(steps[-1].strip()) if steps else None
        return str(int(match[1])) if match else None

    def same_answer(self, left: str, right: str) -> bool:
        return left == right

    def check_step(self, text: str, steps: Sequence[str]) -> Finding:
        step = steps[-1].strip()
        if step.startswith("#"):
            before = steps[-2].rpartition("=")[2].strip() if len(steps) > 1 else ""
            if not _ANSWER.fullmatch(step) or steps[-1].endswith("\n"):
                return Finding(False, "not a final answer")
            is_same = step[1:] == before
            return Finding(is_same, "the last result" if is_same else "not the last result")
        holds = equation_holds(step)
        if holds is None:
            return Finding(False, "not an equation")
        return Finding(holds, "the equation holds" if holds else "the equation is false")

    def claim_of(self, step: str) -> StepClaim | None:
        what, is_equation, result = step.strip().partition("=")
        if is_equation:
            return StepClaim(what, result)
        return StepClaim("answer", what[1:]) if what.startswith("#") else None

    def questions(self, text: str, steps: Sequence[str]) -> tuple[Question, ...] | None:
        step = steps[-1].strip()
        if _ANSWER.fullmatch(step):
            before = steps[-2].rpartition("=")[2].strip() if len(steps) > 1 else ""
            return () if step[1:] == before else None
        equation = _EQUATION.fullmatch(step)
        question = question_of(*equation.groups()) if equation else None
        return None if question is None else (question,)

    def problem(self, story: Story, origin: str) -> Problem:
        steps = story.steps() or ["#"]
        text = story.text
        return Problem(
            problem_id(self.name, self.key(text)),
            text,
            steps[-1][1:],
            origin,
            float(len(story.events)),
        )

    def _unique(
        self, purpose: str, num: int, seed: int, levels: Sequence[int], held_out: bool = False
    ) -> list[tuple[Problem, Story]]:
        rng = generator(purpose, seed)
        found: dict[str, tuple[Problem, Story]] = {}
        for i in range(20 * num):
            if len(found) == num:
                break
            story = _draw(rng, levels[i % len(levels)])
            key = self.key(story.text)
            if is_held_out(key) == held_out and key not in found:
                found[key] = (self.problem(story, "generated"), story)
        return list(found.values())

    def seeds(self, num: int, seed: int) -> list[Problem]:
        return [p for p, _ in self._unique("seeds", num, seed, LEVELS)]

    def held_out(self, num: int, seed: int) -> list[Problem]:
        return [p for p, _ in self._unique("held-out", num, seed, LEVELS, held_out=True)]

    def labelled(self, num: int, seed: int) -> list[Problem]:
        return [p for p, _ in self._unique("labelled", num, seed, LEVELS)]

    def worked(self, num: int, seed: int) -> list[Demonstration]:
        drawn = self._unique("worked", num, seed, LEVELS, held_out=True)
        return [Demonstration(p, tuple(s.steps() or ())) for p, s in drawn]

    def demonstrations(self, num: int, seed: int) -> list[Demonstration]:
        drawn = self._unique("demonstrations", num, seed, LEVELS)
        return [Demonstration(p, tuple(s.steps() or ())) for p, s in drawn]

    @property
    def operators(self) -> tuple[Operator, ...]:
        def rewriting(
            change: Callable[[Story, random.Random], Story],
        ) -> Callable[[Problem, random.Random], Problem | None]:
            def apply(problem: Problem, rng: random.Random) -> Problem | None:
                story = parsed(problem.text)
                new = None if story is None else change(story, rng)
                if new is None or not LEVELS[0] <= len(new.events) <= LEVELS[-1]:
                    return None
                return None if new.steps() is None else self.problem(new, "")

            return apply

        return tuple(
            Operator(name, rewriting(change), harder, name == "rephrase")
            for name, (change, harder) in REWRITINGS.items()
        )
