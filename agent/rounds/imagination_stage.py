"""The first stage of a round: new problems from all that the run knows."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.model_refs import ModelRef
from agent.imagination.imagine import Imagination, Imagined, Wanted
from agent.imagination.judge import opened_judge
from agent.imagination.written import Source, Writer
from agent.rounds.context import RunContext
from agent.rounds.probes import probes_of
from search.errors import TaskError
from search.randomness import derive_seed
from search.state import Problem
from store.datasets import selected_before
from store.rounds import searched_problems
from store.selection import solve_rates
from store.served import served_problems
from store.states import PROBE

RELIABLE = 0.5
"""Share of a rung's searches that give a trusted text, from where the next rung is tried."""


def top_rung(rungs: Mapping[str, Mapping[str, int]], least: float) -> float:
    """The hardest rung that is solved reliably, and with it all below; `least` at the least."""
    top = least
    for rung in sorted(float(r) for r in rungs if r != "-"):
        tally = rungs[f"{rung:g}"]
        if tally.get("kept", 0) < RELIABLE * tally["searches"]:
            break
        top = max(top, rung)
    return top


class ImaginationStage:
    """Makes the problems of one round; the policy writes some of them where schemes are set."""

    def __init__(self, context: RunContext, refs: Mapping[str, ModelRef], number: int) -> None:
        self.context = context
        self.config = context.config
        self.task = context.task
        self.refs = refs
        self.number = number
        self.seed = derive_seed(self.config.seed, number, "imagine")

    def run(self, run_id: int) -> Imagined:
        """Problems that nobody has searched and the policy can read; what was dropped and why."""
        with self.context.store.session() as session:
            seen = searched_problems(session, run_id)
            rates = solve_rates(session, run_id)
            asked = (
                served_problems(session, self.config.task) if self.config.imagination.served else []
            )
        learned = [p for p in seen if p.origin != PROBE]
        parents = [*self.task.seeds(self.config.num_seeds, self.config.seed), *learned]
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
            self._hardest(run_id) if self.config.imagination.ladder else None,
        )
        imagination = Imagination(self.task, held_out)
        probes = probes_of(self.config, self.task, imagination.guard)
        # What is measured with may not be made again and learned from.
        found = imagination.imagine(parents, [*seen, *probes], wanted, rates)
        problems = [p for p in found.problems if self._fits(p)]
        known = {p.id for p in (*problems, *learned)}
        chosen = [p for p in probes if p.id not in known and self._fits(p)]
        return replace(found, problems=problems, probes=chosen)

    def _hardest(self, run_id: int) -> float | None:
        """One rung above the hardest that is solved reliably: at first, that labelled problems
        have; then, of which the last round kept most. None where the task names no rungs."""
        labelled = self.task.labelled(self.config.critics.num_labelled, self.config.seed)
        known = [p.difficulty for p in labelled if p.difficulty is not None]
        if not known:
            return None
        with self.context.store.session() as session:
            report = selected_before(session, run_id, self.number)
        return top_rung(report.get("rungs", {}), max(known)) + 1

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
        models = self.context.models_for(self.refs)
        judge = opened_judge(settings.judge, settings.judge_model, models, model)
        writer = Writer(models, model, self.seed, judge)
        num = round(settings.written_share * self.config.problems_per_round)
        return [partial(writer.write, scheme) for scheme in settings.schemes], num
