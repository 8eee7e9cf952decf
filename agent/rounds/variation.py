"""Variants of the texts that a round learns from: the same way with other numbers, or whatever else
a task knows to change."""

import random
from collections.abc import Iterable, Sequence

from agent.imagination.decontamination import Decontamination
from agent.rounds.context import RunContext
from agent.rounds.probes import probes_of
from agent.training.examples import Example
from agent.training.rehearsal import demonstration_example
from search.errors import TaskError
from search.randomness import derive_seed


class Variation:
    def __init__(self, context: RunContext, number: int) -> None:
        """`number` is the round's: each makes others."""
        self.context = context
        self.seed = derive_seed(context.config.seed, number, "variants")
        task, config = context.task, context.config
        held_out = task.held_out(config.num_held_out, config.evaluation.seed)
        self.guard = Decontamination(held_out, task.key)
        probes = probes_of(config, task, self.guard)
        self.known = {task.key(p.text) for p in (*held_out, *probes)}

    def of(self, worked: Iterable[tuple[str, Sequence[str]]]) -> list[Example]:
        """At most `training.variants` of each problem and its steps; none that gives a held-out
        problem away, and none twice."""
        found: list[Example] = []
        for text, steps in worked:
            for number in range(self.context.config.training.variants):
                rng = random.Random(derive_seed(self.seed, text, "".join(steps), number))
                example = self._one(text, steps, rng)
                found += [example] if example else []
        return found

    def _one(self, text: str, steps: Sequence[str], rng: random.Random) -> Example | None:
        task = self.context.task
        made = task.variant(text, steps, rng)
        if made is None:
            return None
        key = task.key(made[0])
        if key in self.known or task.keeps_out(key) or self.guard.leak(made[0]):
            return None
        self.known.add(key)
        try:
            example = demonstration_example(self.context.prompts, *made)
        except TaskError:
            return None
        return example if len(example.tokens) <= self.context.max_positions else None
