"""Supervised fine-tuning: lower the negative log-likelihood of texts (also: distil a drafter)."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint
from agent.networks.language_model import LanguageModel
from agent.training.early_stop import Snapshot
from agent.training.examples import Example
from agent.training.fit import (
    Batch,
    FitPlan,
    OnStep,
    ends_of,
    fit,
    looked_at_once,
    measured_in,
    planned_steps,
)
from agent.training.job import LoopJob
from agent.training.lesson import Lesson
from agent.training.logprobs import counted_logprobs, summed_logprobs
from agent.training.mixture import with_dev
from agent.training.optimizer import TrainingSettings
from agent.training.resume import Resume


@dataclass(frozen=True, slots=True)
class SftReport:
    num_steps: int
    num_examples: int
    first_loss: float
    """Mean over the first tenth of the steps, nats a token."""
    last_loss: float
    """Mean over the last tenth."""
    dev_loss_before: float | None = None
    """On texts set aside; empty when there were too few."""
    dev_loss: float | None = None
    kept_step: int = 0
    """Step whose weights were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftJob(LoopJob):
    examples: Sequence[Example]
    dev: Sequence[Example] = ()
    """Texts that training stops early by; none where there are too few."""

    resume_file: str = ""
    """Where the state of the training is kept, to go on after a kill; empty: nowhere."""

    can_be_shared: ClassVar[bool] = True

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        resume = None
        if self.resume_file:
            depends = (parent.version, self.settings.model_dump_json(), self.seed)
            told = repr((*depends, [(e.tokens, e.num_prompt) for e in (*self.examples, *self.dev)]))
            resume = Resume(Path(self.resume_file), hashlib.sha256(told.encode()).hexdigest())
        report = train_on_texts(
            model, self.examples, self.settings, self.seed, progress, self.dev, resume
        )
        return model, asdict(report) | {"method": "sft"}


def train_on_texts(
    model: LanguageModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    progress: OnStep | None = None,
    dev: Sequence[Example] = (),
    resume: Resume | None = None,
) -> SftReport:
    """Lower the mean negative log-likelihood of the learned tokens, in place.

    With dev texts the weights that did best on them are kept (early stop).

    The same model, examples, settings and seed give the same weights on the same machine.
    Raises DivergedError when the loss stops being finite; the model is then of no use.
    """
    num_steps = planned_steps(len(examples), settings)
    measure = measured_in(model, settings, lambda: mean_loss(model, dev)) if dev else None
    snapshot = Snapshot(model, measure, num_steps, may_stay=False)

    def loss_of(batch: Batch) -> Tensor:
        num_learned = sum(
            len(examples[i].tokens) - max(1, examples[i].num_prompt) for i in batch.all_rows
        )
        part = [examples[i] for i in batch.rows]
        rows, given = [e.tokens for e in part], [e.num_prompt for e in part]
        return -summed_logprobs(model, rows, given, batch.positions_BT) / num_learned

    lengths = [len(e.tokens) for e in examples]
    plan = FitPlan(lengths, settings.batch_size, num_steps, settings, seed, True, resume)
    losses = fit(model, plan, loss_of, progress, snapshot)
    return SftReport(
        num_steps,
        len(examples),
        *ends_of(losses),
        snapshot.first_loss if dev else None,
        snapshot.best_loss if dev else None,
        snapshot.best_step if dev else num_steps,
    )


def learned_logprobs(model: LanguageModel, examples: Sequence[Example]) -> Tensor:
    """log p of every token that is learned, row by row, [N]."""
    rows, given = [e.tokens for e in examples], [e.num_prompt for e in examples]
    return counted_logprobs(model, rows, given).logprob_N


@torch.no_grad()
def mean_loss(model: LanguageModel, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood of the learned tokens, nats."""
    total, count = 0.0, 0
    for start, end in looked_at_once([len(e.tokens) for e in examples], model):
        found = learned_logprobs(model, examples[start:end])
        total -= float(found.double().sum())
        count += len(found)
    return total / count


def job_of(lesson: Lesson) -> SftJob:
    texts, dev = with_dev(lesson.texts)
    num_steps, examples = lesson.with_replay([*texts, *lesson.variants])
    return SftJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings.model_copy(update={"num_steps": num_steps}),
        seed=lesson.seed,
        examples=examples,
        dev=dev,
    )
