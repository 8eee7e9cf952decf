"""New problems from old ones: operators drawn to fit what the policy can do, and filters.

Difficulty follows ability. A parent whose solve rate under search lay strictly between 0 and 1 is
in the band where there is something to learn: it is drawn `BAND_WEIGHT` times as often. One that
was always solved is not made easier, one that never was is not made harder. Nothing is kept that
is known already, that falls into the held-out tenth, or that gives a held-out problem away.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.imagination.decontamination import Decontamination
from agent.imagination.written import Source, Written
from agent.tasks.operators import Operator
from agent.tasks.task import Task, generator, is_held_out
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
    made: Counter[str] = field(default_factory=Counter)
    """Problems kept, by operator."""
    refused: Counter[str] = field(default_factory=Counter)
    """Tries that came to nothing, by reason."""

    def report(self) -> dict[str, Any]:
        tries = sum(self.made.values()) + sum(self.refused.values())
        leaks = self.refused["key"] + self.refused["n-gram"]
        return {
            "num": len(self.problems),
            "tries": tries,
            "made": dict(self.made),
            "refused": dict(self.refused),
            "contaminated": leaks,
            "yield": sum(self.made.values()) / tries if tries else 0.0,
        }


class Imagination:
    def __init__(self, task: Task, held_out: Sequence[Problem]) -> None:
        self.task = task
        self.guard = Decontamination(held_out, task.key)

    def imagine(
        self,
        parents: Sequence[Problem],
        seen: Sequence[Problem],
        num: int,
        seed: int,
        rates: Mapping[str, float] | None = None,
        wordings: int = 0,
        sources: Sequence[Source] = (),
        written: int = 0,
    ) -> Imagined:
        """`num` problems at most, other wordings among them: `wordings` for each new problem.

        `rates` are solve rates under search by problem id, for those that were searched. The
        task's own unsearched problems come first; then up to `written` texts of the `sources`, by
        turns; then operators make new ones from `parents`.
        """
        rng = generator("imagine", seed)
        found = Imagined([])
        known = {self.task.key(p.text) for p in seen}
        for problem in self.task.given(seed):
            if len(found.problems) < num and self._is_new(problem, known, found, True):
                self._add(found, problem, "given", known, num, wordings, seed)
        known |= {self.task.key(p.text) for p in parents}
        for source in sources if parents else ():
            for text in source(parents, written // len(sources)):
                if len(found.problems) < num:
                    self._take(found, text, known, num, wordings, seed)
        weights = [self._weight((rates or {}).get(p.id)) for p in parents]
        for _ in range(TRIES * num if parents and self.task.operators else 0):
            if len(found.problems) >= num:
                break
            parent = rng.choices(parents, weights)[0]
            operators = self._drawn(rng, (rates or {}).get(parent.id))
            problem = parent
            for operator in operators:
                changed = operator.apply(problem, rng)
                if changed is None:
                    found.refused["does not fit"] += 1
                    break
                problem = changed
            else:
                name = "+".join(o.name for o in operators)
                problem = replace(problem, origin=f"{name}:{parent.id}")
                if self._is_new(problem, known, found):
                    self._add(found, problem, name, known, num, wordings, seed)
        return found

    def _take(
        self, found: Imagined, text: Written, known: set[str], num: int, wordings: int, seed: int
    ) -> None:
        """A written problem that passed its judge, if it is new."""
        if text.refused:
            found.refused[f"{text.scheme}: {text.refused}"] += 1
            return
        try:
            written = self.task.written(text.text)
        except TaskError:
            found.refused[f"{text.scheme}: no problem of this task"] += 1
            return
        problem = replace(written, origin=f"{text.scheme}:{text.parent.id}")
        if self._is_new(problem, known, found):
            self._add(found, problem, text.scheme, known, num, wordings, seed)

    @staticmethod
    def _weight(rate: float | None) -> float:
        return BAND_WEIGHT if rate is not None and 0 < rate < 1 else 1.0

    def _drawn(self, rng: Any, rate: float | None) -> list[Operator]:
        """One operator, or two, that suit a parent of this solve rate."""
        fitting = [
            o
            for o in self.task.operators
            if not (rate == 0 and o.harder > 0) and not (rate == 1 and o.harder < 0)
        ]
        return [rng.choice(fitting) for _ in range(2 if rng.random() < COMPOSED else 1)]

    def _is_new(
        self, problem: Problem, known: set[str], found: Imagined, is_given: bool = False
    ) -> bool:
        """Given problems are the task's own: it keeps its held-out ones to itself."""
        why = self._refusal(problem, known, is_given)
        if why:
            found.refused[why] += 1
        return not why

    def _refusal(self, problem: Problem, known: set[str], is_given: bool = False) -> str:
        key = self.task.key(problem.text)
        if key in known:
            return "known"
        if not is_given and is_held_out(key):
            return "held out"
        return self.guard.leak(problem.text)

    def _add(
        self,
        found: Imagined,
        problem: Problem,
        name: str,
        known: set[str],
        num: int,
        wordings: int,
        seed: int,
    ) -> None:
        known.add(self.task.key(problem.text))
        found.problems.append(problem)
        found.made[name] += 1
        room = min(wordings, num - len(found.problems))
        for other in wordings_of(
            self.task, problem, room, seed, lambda p: not self._refusal(p, known)
        ):
            known.add(self.task.key(other.text))
            found.made[other.origin.partition(":")[0]] += 1
            found.problems.append(other)


def wordings_of(
    task: Task,
    problem: Problem,
    num: int,
    seed: int,
    is_fitting: Callable[[Problem], bool] = lambda problem: True,
) -> list[Problem]:
    """At most `num` different other wordings of a problem, whose answers may be compared."""
    keeping = [o for o in task.operators if o.keeps_answer]
    rng = generator("wordings", seed, problem.id)
    keys = {task.key(problem.text)}
    found: list[Problem] = []
    for _ in range(TRIES * num if keeping else 0):
        if len(found) == num:
            break
        operator = rng.choice(keeping)
        other = operator.apply(problem, rng)
        if other is None or task.key(other.text) in keys or not is_fitting(other):
            continue
        keys.add(task.key(other.text))
        found.append(replace(other, origin=f"{operator.name}:{problem.id}", family=problem.id))
    return found
