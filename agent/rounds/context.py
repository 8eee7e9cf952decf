"""What all parts of a run share: configuration, store, lease, hosts, task, progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.checkpoints.registry import model_set
from agent.config.load import Config
from agent.engine.tokenizer import Tokenizer
from agent.hosting.hosts import Hosts
from agent.hosting.model_host import ModelRef
from agent.hosting.policy_host import Speculation
from agent.progress import Progress
from agent.search_models import Limits, Models, ModelSet
from agent.tasks.task import Task
from agent.training.examples import Example
from agent.training.runner import Workshop
from store.database import Store
from store.leases import RunLease


@dataclass(frozen=True, slots=True)
class RunContext:
    config: Config
    store: Store
    lease: RunLease
    hosts: Hosts
    task: Task
    workshop: Workshop
    progress: Progress
    max_positions: int
    """Tokens of the policy's context."""
    demonstrations: tuple[Example, ...] = ()
    """What the base policy was taught with, as far as that is known."""

    def models_for(self, refs: Mapping[str, ModelRef]) -> Models:
        """Proposer and evaluator over these weights."""
        return make_models(self.config, self.hosts, model_set(refs), self.task)

    def models_to_search(self, refs: Mapping[str, ModelRef]) -> Models:
        """The same with the token budget of a round's searches: many problems, little on each."""
        models = self.models_for(refs)
        if self.config.tokens_per_problem:
            models.settings = replace(models.settings, max_tokens=self.config.tokens_per_problem)
        return models


def make_models(config: Config, hosts: Hosts, models: ModelSet, task: Task) -> Models:
    return Models(
        hosts,
        models,
        Tokenizer(Path(models.policy.path)),
        task,
        config.search,
        config.critics.weights,
        Limits(config.hosting.option_tokens, config.hosting.text_tokens),
        config.critics.use_tool,
        Speculation(
            config.hosting.speculation, config.hosting.draft_tokens, config.hosting.draft_source
        ),
        config.critics.min_auc,
    )


def judged(task: Task, answer: str | None, reference: str | None) -> bool | None:
    """Whether the answer is right; None when nobody knows the right one."""
    return None if reference is None else task.is_correct(answer, reference)


def chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
