"""What all parts of a run share: configuration, store, lease, hosts, task, progress."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.checkpoints.model_refs import ModelRef, ModelSet
from agent.config.settings import Config
from agent.hosting.hosts import Hosts
from agent.progress import Progress
from agent.prompts import Prompts
from agent.search_models import Models, ModelSettings
from agent.tasks.task import Task
from agent.training.examples import Example
from agent.training.runner import TrainingRunner
from store.database import Store
from store.leases import RunLease
from store.states import without_voters


@dataclass(frozen=True, slots=True)
class RunContext:
    config: Config
    store: Store
    lease: RunLease
    hosts: Hosts
    task: Task
    trainer: TrainingRunner
    progress: Progress
    prompts: Prompts
    """Of the base policy, whose tokenizer all its descendants have."""
    max_positions: int
    """Tokens of the policy's context."""
    demonstrations: tuple[Example, ...] = ()
    """What the base policy was taught with, as far as that is known."""

    def models_for(self, refs: Mapping[str, ModelRef]) -> Models:
        """Proposer and evaluator over these weights; voters take no part in a search."""
        searching = ModelSet(without_voters(refs))
        return Models(self.hosts, searching, self.task, ModelSettings.of(self.config), self.prompts)

    def models_to_search(self, refs: Mapping[str, ModelRef]) -> Models:
        """The same with the token budget of a round's searches: many problems, little on each."""
        models, most = self.models_for(refs), self.config.tokens_per_problem
        return models.with_search(replace(models.settings, max_tokens=most)) if most else models


def judged(task: Task, answer: str | None, reference: str | None) -> bool | None:
    """Whether the answer is right; None when nobody knows the right one."""
    return None if reference is None else task.is_correct(answer, reference)


def chunks(rows: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
