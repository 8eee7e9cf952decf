"""Held-out accuracy of a set of models, measured once and then read from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.checkpoints.checkpoint import inspect_checkpoint
from agent.evaluation.answering import Plan, Report, benchmark_digest, bits_per_character, evaluate
from agent.hosting.model_host import ModelRef
from agent.rounds.context import RunContext
from agent.search_models import Models
from agent.tasks.task import Demonstration
from search.state import Problem
from store.evaluations import find_evaluation, record_evaluation

NUM_WORKED = 200
"""Texts whose compression is measured."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Held-out results of one policy: greedy, and with search (None where it was not measured)."""

    policy: str
    greedy: Report
    search: Report | None
    bits_per_character: float | None
    """Of held-out worked texts; None where the task has none."""


class Examiner:
    def __init__(self, context: RunContext) -> None:
        self.context = context

    def figures(self, refs: Mapping[str, ModelRef], round_id: int | None) -> Figures:
        """Held-out results of a set of models; those already in the store are not redone."""
        settings = self.context.config.evaluation
        problems = self.context.task.held_out(settings.num_problems, settings.seed)
        greedy = self.evaluated(refs, problems, Plan("greedy"), round_id)
        search = None
        if settings.num_search_problems:
            part = problems[: settings.num_search_problems]
            search = self.evaluated(refs, part, Plan("search", seed=settings.seed), round_id)
        return Figures(refs["policy"].version, greedy, search, self.compression(refs))

    def compression(self, refs: Mapping[str, ModelRef]) -> float | None:
        """Bits per character of held-out worked texts: forgetting shows there."""
        worked = self.context.task.worked(NUM_WORKED, self.context.config.evaluation.seed)
        models = self.context.models_for(refs)
        return bits_per_character(models, that_fit(models, worked, refs["policy"].path))

    def evaluated(
        self,
        refs: Mapping[str, ModelRef],
        problems: Sequence[Problem],
        plan: Plan,
        round_id: int | None,
    ) -> Report:
        models = self.context.models_for(refs)
        settings = plan.settings(models)
        used = (
            models.models.versions
            if plan.mode == "search"
            else {"policy": models.models.policy.version}
        )
        sha = benchmark_digest(problems)
        with self.context.store.session() as session:
            known = find_evaluation(session, used, settings, sha)
        if known is not None:
            return Report(plan.mode, known.items, known.num_tokens, known.seconds)
        self.context.lease.renew()
        self.context.progress.stage("evaluating", len(problems), f"held-out problems, {plan.mode}")
        report = evaluate(
            models,
            problems,
            plan,
            self.context.config.hosting.cohort,
            lambda done, solved: self.context.progress.update(done, solved=solved),
        )
        with self.context.store.session() as session:
            record_evaluation(session, used, settings, sha, report, report.interval, round_id)
        return report


def that_fit(
    models: Models, worked: Sequence[Demonstration], policy_path: str
) -> list[Demonstration]:
    """The worked texts that the policy's context holds."""
    room = inspect_checkpoint(policy_path).architecture.max_positions

    def text(w: Demonstration) -> str:
        return models.task.prompt(w.problem.text) + "".join(w.steps)

    return [w for w in worked if len(models.tokenizer.encode(text(w))) < room]
