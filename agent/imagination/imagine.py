"""New problems from old ones: operators drawn to fit what the policy can do, and filters.

Difficulty follows ability. A parent whose solve rate under search lay strictly between 0 and 1 is
in the band where there is something to learn: it is drawn `BAND_WEIGHT` times as often. One that
was always solved is not made easier, one that never was is not made harder. Nothing is kept that
is known already, that falls into the held-out tenth, or that gives a held-out problem away.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.imagination.decontamination import Decontamination
from agent.imagination.written import Source, Written
from agent.tasks.operators import Operator
from agent.tasks.task import Task, generator
from agent.tasks.wordings import wordings_of
from search.errors import TaskError
from search.state import Problem

BAND_WEIGHT = 4.0
COMPOSED = 0.2
"""Share of tries that take two operators, one after the other."""
TRIES = 50
"""For each problem wanted, at most."""


@dataclass(frozen=True, slots=True)
class Imagined:
    problems: list[Problem]
    """Each problem is followed by its other wordings, whose `family` is its id."""
    probes: list[Problem] = field(default_factory=list)
    """Labelled problems to search with them, from which nothing is learned."""
    made: Counter[str] = field(default_factory=Counter)
    """Problems kept, by operator."""
    refused: Counter[str] = field(default_factory=Counter)
    """Tries that came to nothing, by reason."""

    def report(self) -> dict[str, Any]:
        tries = sum(self.made.values()) + sum(self.refused.values())
        leaks = self.refused["key"] + self.refused["n-gram"]
        return {
            "num": len(self.problems),
            "probes": len(self.probes),
            "tries": tries,
            "made": dict(self.made),
            "refused": dict(self.refused),
            "contaminated": leaks,
            "yield": sum(self.made.values()) / tries if tries else 0.0,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a round asks imagination for."""

    num: int
    """Problems at most, other wordings among them."""
    seed: int
    wordings: int = 0
    """Other wordings of each new problem."""
    sources: Sequence[Source] = ()
    """What writes problems where operators cannot, asked by turns."""
    written: int = 0
    """Texts that the sources are asked for, all together."""
    hardest: float | None = None
    """Largest difficulty; None: any."""


@dataclass(frozen=True, slots=True)
class Given:
    """The task's own problems, before any is imagined."""

    num: int
    refused: Counter[str]
    """Those that give a held-out problem away, by what: `key` or `n-gram`."""


class Imagination:
    def __init__(self, task: Task, held_out: Sequence[Problem]) -> None:
        self.task = task
        self.guard = Decontamination(held_out, task.key)

    def refused_given(self, seed: int) -> "Given":
        """How many problems the task gives itself, and why some may not be learned from."""
        problems = self.task.given(seed)
        reasons = (self.guard.leak(p.text) for p in problems)
        return Given(len(problems), Counter(reason for reason in reasons if reason))

    def imagine(
        self,
        parents: Sequence[Problem],
        seen: Sequence[Problem],
        wanted: Wanted,
        rates: Mapping[str, float] | None = None,
    ) -> Imagined:
        """New problems; `seen` ones are known already.

        `rates` are solve rates under search by problem id, for those that were searched. The
        task's own unsearched problems come first; then texts of the sources; then operators make
        new ones from `parents`.
        """
        return _ImaginationRun(self.task, self.guard, wanted, seen).gathered(parents, rates or {})


class _ImaginationRun:
    """One call of imagination: what it has found, and what is known by now."""

    def __init__(
        self, task: Task, guard: Decontamination, wanted: Wanted, seen: Sequence[Problem]
    ) -> None:
        self.task = task
        self.guard = guard
        self.wanted = wanted
        self.found = Imagined([])
        self.known = {task.key(p.text) for p in seen}

    @property
    def is_full(self) -> bool:
        return len(self.found.problems) >= self.wanted.num

    def gathered(self, parents: Sequence[Problem], rates: Mapping[str, float]) -> Imagined:
        rng = generator("imagine", self.wanted.seed)
        for problem in self.task.given(self.wanted.seed):
            if not self.is_full and self._is_new(problem, is_given=True):
                self._add(problem, "given")
        self.known |= {self.task.key(p.text) for p in parents}
        sources = self.wanted.sources if parents else ()
        for source in sources:
            for text in source(parents, self.wanted.written // len(sources)):
                if not self.is_full:
                    self._take(text)
        weights = [_weight(rates.get(p.id)) for p in parents]
        for _ in range(TRIES * self.wanted.num if parents and self.task.operators else 0):
            if self.is_full:
                break
            parent = rng.choices(parents, weights)[0]
            self._make(parent, self._drawn(rng, rates.get(parent.id)), rng)
        return self.found

    def _make(self, parent: Problem, operators: Sequence[Operator], rng: random.Random) -> None:
        """A problem by these operators, one after the other, if they fit and it is new."""
        problem = parent
        for operator in operators:
            changed = operator.apply(problem, rng)
            if changed is None:
                self.found.refused["does not fit"] += 1
                return
            problem = changed
        name = "+".join(o.name for o in operators)
        problem = replace(problem, origin=f"{name}:{parent.id}")
        if self._is_new(problem):
            self._add(problem, name)

    def _take(self, text: Written) -> None:
        """A written problem that passed its judge, if it is new."""
        if text.refused:
            self.found.refused[f"{text.scheme}: {text.refused}"] += 1
            return
        try:
            written = self.task.written(text.text)
        except TaskError:
            self.found.refused[f"{text.scheme}: no problem of this task"] += 1
            return
        problem = replace(written, origin=f"{text.scheme}:{text.parent.id}")
        if self._is_new(problem):
            self._add(problem, text.scheme)

    def _drawn(self, rng: random.Random, rate: float | None) -> list[Operator]:
        """One operator, or two, that suit a parent of this solve rate."""
        fitting = [
            o
            for o in self.task.operators
            if not (rate == 0 and o.harder > 0) and not (rate == 1 and o.harder < 0)
        ]
        return [rng.choice(fitting) for _ in range(2 if rng.random() < COMPOSED else 1)]

    def _is_new(self, problem: Problem, is_given: bool = False) -> bool:
        """Given problems are the task's own: it keeps its held-out ones to itself."""
        why = self._refusal(problem, is_given)
        if why:
            self.found.refused[why] += 1
        return not why

    def _refusal(self, problem: Problem, is_given: bool = False) -> str:
        key = self.task.key(problem.text)
        if key in self.known:
            return "known"
        if not is_given and self.task.keeps_out(key):
            return "held out"
        hardest = self.wanted.hardest
        if hardest is not None and problem.difficulty is not None and problem.difficulty > hardest:
            return "too hard yet"
        return self.guard.leak(problem.text)

    def _add(self, problem: Problem, name: str) -> None:
        """Keep a problem, and its other wordings after it."""
        self.known.add(self.task.key(problem.text))
        self.found.problems.append(problem)
        self.found.made[name] += 1
        room = min(self.wanted.wordings, self.wanted.num - len(self.found.problems))

        def is_fitting(other: Problem) -> bool:
            return not self._refusal(other)

        for other in wordings_of(self.task, problem, room, self.wanted.seed, is_fitting):
            self.known.add(self.task.key(other.text))
            self.found.made[other.origin.partition(":")[0]] += 1
            self.found.problems.append(other)


def _weight(rate: float | None) -> float:
    """How often a parent is drawn, by its solve rate."""
    return BAND_WEIGHT if rate is not None and 0 < rate < 1 else 1.0
