"""The first stage of a round: new problems from all that the run knows."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.model_refs import ModelRef
from agent.imagination.imagine import Imagination, Imagined, Wanted
from agent.imagination.written import Source, Writer
from agent.rounds.context import RunContext
from search.errors import TaskError
from search.randomness import derive_seed
from search.state import Problem
from store.rounds import searched_problems
from store.selection import solve_rates
from store.served import served_problems


class ImaginationStage:
    """Makes the problems of one round; the policy writes some of them where schemes are set."""

    def __init__(self, context: RunContext, refs: Mapping[str, ModelRef], number: int) -> None:
        self.context = context
        self.config = context.config
        self.task = context.task
        self.refs = refs
        self.seed = derive_seed(self.config.seed, number, "imagine")

    def run(self, run_id: int) -> Imagined:
        """Problems that nobody has searched and the policy can read; what was dropped and why."""
        with self.context.store.session() as session:
            seen = searched_problems(session, run_id)
            rates = solve_rates(session, run_id)
            asked = (
                served_problems(session, self.config.task) if self.config.imagination.served else []
            )
        parents = [*self.task.seeds(self.config.num_seeds, self.config.seed), *seen]
        settings = self.config.evaluation
        held_out = self.task.held_out(self.context.config.num_held_out, settings.seed)
        # Someone may ask a service what is held out: nothing may be made of that.
        kept_apart = {p.id for p in held_out}
        parents += [p for p in asked if p.id not in kept_apart]
        wanted = Wanted(
            self.config.problems_per_round,
            self.seed,
            self.config.imagination.wordings,
            *self._sources(),
        )
        found = Imagination(self.task, held_out).imagine(parents, seen, wanted, rates)
        return replace(found, problems=[p for p in found.problems if self._fits(p)])

    def _fits(self, problem: Problem) -> bool:
        try:
            size = len(self.context.prompts.tokens(problem.text))
        except TaskError:
            return False
        return size < self.context.max_positions

    def _sources(self) -> tuple[list[Source], int]:
        """What writes problems where operators cannot, and how many texts it is asked for."""
        settings = self.config.imagination
        if not settings.schemes:
            return [], 0
        model = self.refs["policy"]
        if settings.writer:
            model = policy_at(Path(settings.writer).expanduser()).ref("policy")
        writer = Writer(self.context.models_for(self.refs), model, self.seed)
        num = round(settings.written_share * self.config.problems_per_round)
        return [partial(writer.write, scheme) for scheme in settings.schemes], num
