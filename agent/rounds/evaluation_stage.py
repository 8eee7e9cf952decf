"""Held-out results of a set of models, measured once and from then on read from the store."""

from collections.abc import Mapping
from dataclasses import dataclass

from agent.checkpoints.model_refs import ModelRef
from agent.evaluation.answering import Plan, benchmark_digest, evaluate
from agent.evaluation.compression import bits_per_character, texts_that_fit
from agent.rounds.context import RunContext
from agent.search_models import Models
from search.state import Problem
from store.evaluations import Evaluation, EvaluationKey, find_evaluation, record_evaluation
from store.states import Stage


@dataclass(frozen=True, slots=True)
class Figures:
    """Held-out results of one policy: greedy, and with search (None where it was not measured)."""

    policy: str
    greedy: Evaluation
    search: Evaluation | None

    @property
    def bits_per_character(self) -> float | None:
        """Of held-out worked texts: forgetting shows there. None where the task has none."""
        return self.greedy.bits_per_character


class EvaluationStage:
    def __init__(self, context: RunContext) -> None:
        self.context = context

    def figures(self, refs: Mapping[str, ModelRef], round_id: int | None) -> Figures:
        """Held-out results of a set of models; those already in the store are not redone."""
        settings = self.context.config.evaluation
        greedy = self.greedy(refs, round_id)
        search = None
        if settings.num_search_problems:
            part = self._problems()[: settings.num_search_problems]
            search = self.evaluated(refs, part, Plan("search", seed=settings.seed), round_id)
        return Figures(refs["policy"].version, greedy, search)

    def greedy(self, refs: Mapping[str, ModelRef], round_id: int | None) -> Evaluation:
        """Held-out problems answered by the policy alone, which is what the gate compares."""
        return self.evaluated(refs, self._problems(), Plan("greedy"), round_id)

    def _problems(self) -> list[Problem]:
        seed = self.context.config.evaluation.seed
        return self.context.task.held_out(self.context.config.num_held_out, seed)

    def evaluated(
        self,
        refs: Mapping[str, ModelRef],
        problems: list[Problem],
        plan: Plan,
        round_id: int | None,
    ) -> Evaluation:
        models = self.context.models_for(refs)
        versions = models.versions if plan.mode == "search" else {"policy": models.policy.version}
        key = EvaluationKey(versions, plan.settings(models), benchmark_digest(problems))
        with self.context.store.session() as session:
            known = find_evaluation(session, key)
        worked = []
        if plan.mode == "greedy" and (known is None or known.bits_per_character is None):
            worked = texts_that_fit(models, self.context.config.evaluation.seed)
        if known is not None and not worked:
            return known
        self.context.lease.renew()
        found = known or self._answered(models, problems, plan)
        if worked:
            found = found.with_bits(bits_per_character(models, worked))
        with self.context.store.session() as session:
            record_evaluation(session, key, found, round_id, problems, self.context.config.task)
        return found

    def _answered(self, models: Models, problems: list[Problem], plan: Plan) -> Evaluation:
        unit = f"held-out problems, {plan.mode}"
        self.context.progress.stage(Stage.EVALUATING, len(problems), unit)
        return evaluate(
            models,
            problems,
            plan,
            self.context.config.hosting.cohort,
            lambda done, solved: self.context.progress.update(done, solved=solved),
        )
