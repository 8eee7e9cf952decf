"""Short arithmetic word problems, one equation a line, the answer last.

    Ann has 12 apples. She buys 7 more apples. How many apples does Ann have?
    12+7=19
    #19

One to four steps; amounts of two digits. The calculator checks that an equation holds, not that
it is the right one for the story, so here the critics matter. The same stories are told in German
and in Spanish, so that what a critic learned in one language can be tried in another.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.tasks.operators import Operator
from agent.tasks.story_words import ENGLISH, GERMAN, OPERATIONS, SPANISH, Language, patterns
from agent.tasks.task import Demonstration, Task, check_text, generator, is_held_out, problem_id
from critics.calculator import equation_holds
from critics.working import Question, question_of
from search.merge import StepClaim
from search.score import Finding
from search.state import Problem

MAX_AMOUNT = 99
LEVELS = (1, 2, 3, 4)

_ANSWER = re.compile(r"#(-?\d{1,9})")
_EQUATION = re.compile(r"(-?\d+)([-+*/])(\d+)=(-?\d+)")


def _apply(total: int, operation: str, n: int) -> int | None:
    """Amount after an event; None where the story would not be sensible."""
    if operation == "+":
        after = total + n
    elif operation == "-":
        after = total - n
    elif operation == "*":
        after = total * n
    else:
        if total % n:
            return None
        after = total // n
    return after if 1 <= after <= MAX_AMOUNT else None


@dataclass(frozen=True, slots=True)
class Story:
    language: Language
    name: str
    things: str
    start: int
    events: tuple[tuple[int, int], ...]
    """Index of the event and its amount."""

    @property
    def text(self) -> str:
        language = self.language
        parts = [language.start.format(name=self.name, n=self.start, things=self.things)]
        for index, n in self.events:
            sentence = language.sentences[index]
            parts.append(sentence.format(name=self.name, things=self.things, n=n))
        question = language.question.format(name=self.name, things=self.things)
        return " ".join([*parts, question])

    def steps(self) -> list[str] | None:
        """The worked solution; None when some amount is out of bounds."""
        total, lines = self.start, list[str]()
        for index, n in self.events:
            operation, _ = OPERATIONS[index]
            after = _apply(total, operation, n)
            if after is None:
                return None
            lines.append(f"{total}{operation}{n}={after}\n")
            total = after
        return [*lines, f"#{total}"]


def _draw(rng: random.Random, level: int, language: Language) -> Story:
    while True:
        events = tuple(_event(rng) for _ in range(level))
        name, things = rng.choice(language.names), rng.choice(language.things)
        story = Story(language, name, things, rng.randint(2, 60), events)
        if story.steps() is not None:
            return story


def _event(rng: random.Random) -> tuple[int, int]:
    index = rng.randrange(len(OPERATIONS))
    return index, rng.randint(*OPERATIONS[index][1])


def parsed(text: str, language: Language = ENGLISH) -> Story | None:
    """The story behind a text in our own form; None for any other text."""
    start, *sentences = patterns(language)
    head = start.match(text)
    if head is None:
        return None
    events: list[tuple[int, int]] = []
    for sentence in re.findall(r"[^.?]+[.?]", text[head.end() :])[:-1]:
        match = next(
            ((i, m) for i, p in enumerate(sentences) if (m := p.fullmatch(sentence.strip()))), None
        )
        if match is None:
            return None
        events.append((match[0], int(match[1]["n"])))
    story = Story(language, head["name"], head["things"], int(head["n"]), tuple(events))
    return story if story.text == text else None


def _change_numbers(story: Story, rng: random.Random) -> Story:
    events = tuple((i, rng.randint(*OPERATIONS[i][1])) for i, _ in story.events)
    return replace(story, start=rng.randint(2, 60), events=events)


def _rephrase(story: Story, rng: random.Random) -> Story:
    """Other words for the same operations, another name, another thing."""
    events = []
    for index, n in story.events:
        operation, _ = OPERATIONS[index]
        same = [i for i, (other, _) in enumerate(OPERATIONS) if other == operation]
        events.append((rng.choice(same), n))
    name, things = rng.choice(story.language.names), rng.choice(story.language.things)
    return Story(story.language, name, things, story.start, tuple(events))


def _harder(story: Story, rng: random.Random) -> Story:
    return replace(story, events=(*story.events, _event(rng)))


def _easier(story: Story, rng: random.Random) -> Story:
    return replace(story, events=story.events[:-1])


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
    language = ENGLISH

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
            story = _draw(rng, levels[i % len(levels)], self.language)
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
                story = parsed(problem.text, self.language)
                new = None if story is None else change(story, rng)
                if new is None or not LEVELS[0] <= len(new.events) <= LEVELS[-1]:
                    return None
                return None if new.steps() is None else self.problem(new, "")

            return apply

        return tuple(
            Operator(name, rewriting(change), harder, name == "rephrase")
            for name, (change, harder) in REWRITINGS.items()
        )


class GermanStories(Stories):
    name = "stories-de"
    language = GERMAN


class SpanishStories(Stories):
    name = "stories-es"
    language = SPANISH
