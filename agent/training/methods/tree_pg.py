"""Policy gradient from stored trees: a step's advantage is what lies below it less its siblings'.

A search tries several steps at a state and knows the mean score of the texts below each (its Q; 0
where the tool refuted it). The advantage of a step is its Q less the mean of its siblings', as in
TreeRL (Hou et al., arXiv 2506.11902) and Tree-GRPO (Ji et al., arXiv 2509.21240), so credit goes to
the step and not to the text. Those draw their steps, a search lists the likeliest: all count alike,
or, if so set, each as often as the policy would have drawn it among its siblings. The trees were
grown by the policy that training begins from: each token's ratio to its probability then is the
importance weight, clipped (`clipped`). The negative log-likelihood of kept and replayed texts may
be added, as in DPO.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint
from agent.networks.language_model import LanguageModel
from agent.training.clipped import Clip, clipped_loss
from agent.training.examples import Example, SiblingSteps, batches
from agent.training.fit import Batch, FitPlan, OnStep, ends_of, fit, looked_at_once, planned_steps
from agent.training.job import LoopJob
from agent.training.lesson import Lesson, NothingToLearnError
from agent.training.logprobs import counted_logprobs
from agent.training.methods.sft import learned_logprobs
from agent.training.optimizer import TrainingSettings

LEAST = 1e-9
"""Probability that a step has, at least, so that a state whose steps all became unlikely has a
mean."""


@dataclass(frozen=True, slots=True)
class _Step:
    given: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TreeReport:
    num_steps: int
    num_examples: int
    """Steps of trees."""
    first_loss: float
    last_loss: float
    moved: float
    """Share of the tokens of the last tenth's steps whose ratio lay beyond the bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePgJob(LoopJob):
    siblings: Sequence[SiblingSteps]
    texts: Sequence[Example]
    text_weight: float
    clip: Clip
    counts_alike: bool = True
    """Whether all steps of a state count alike, however likely they were."""

    beside_bytes: ClassVar[float] = 0.0

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        texts = self.texts if self.text_weight else ()
        report = train_on_trees(
            model,
            self.siblings,
            texts,
            self.text_weight,
            self.clip,
            self.settings,
            self.seed,
            progress,
            self.counts_alike,
        )
        return model, asdict(report) | {"method": "tree-pg"}


def advantages(rewards: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Each less the weighted mean of the others, times its own weight; weights are one on average.
    There are two steps, at least."""
    mass, total = sum(weights), sum(w * r for w, r in zip(weights, rewards, strict=True))
    scale = len(weights) / mass
    found = []
    for weight, reward in zip(weights, rewards, strict=True):
        others = mass - weight
        mean = (total - weight * reward) / others if others > 0 else reward
        found.append(scale * weight * (reward - mean))
    return found


def train_on_trees(
    model: LanguageModel,
    siblings: Sequence[SiblingSteps],
    texts: Sequence[Example],
    text_weight: float,
    clip: Clip,
    settings: TrainingSettings,
    seed: int,
    progress: OnStep | None = None,
    counts_alike: bool = True,
) -> TreeReport:
    """Train in place; the same arguments give the same weights. Raises DivergedError.

    A step takes half a batch of steps of trees and, where there are texts, a whole one of texts.
    """
    steps = [_Step(group.given, tokens) for group in siblings for tokens in group.steps]
    num_rows = max(1, settings.batch_size // 2)
    num_steps = planned_steps(len(steps), settings.model_copy(update={"batch_size": num_rows}))
    written = _written(model, steps)
    chances = iter(math.exp(float(logprob.sum())) for logprob in written)
    advantage = [
        advantage
        for group in siblings
        for advantage in advantages(
            group.rewards,
            [1.0 if counts_alike else next(chances) + LEAST for _ in group.steps],
        )
    ]
    rng = np.random.default_rng((seed, 1))
    num_drawn = num_steps if texts else 0
    drawn = batches([len(t.tokens) for t in texts], settings.batch_size, num_drawn, rng)
    moved: list[float] = []

    def loss_of(batch: Batch) -> Tensor:
        part = [steps[i] for i in batch.rows]
        logprob_N = _logprobs(model, part)
        written_N = torch.cat([written[i] for i in batch.rows]).to(logprob_N.device)
        counts = torch.tensor([len(s.tokens) for s in part])
        advantage_N = torch.tensor([advantage[i] for i in batch.rows]).repeat_interleave(counts)
        ratio_N = torch.exp(logprob_N.detach() - written_N)
        is_beyond_N = (ratio_N < 1 - clip.below) | (ratio_N > 1 + clip.above)
        moved.append(float(is_beyond_N.float().mean()))
        loss = clipped_loss(logprob_N, written_N, advantage_N.to(logprob_N.device), clip)
        if rows := next(drawn, []):
            logprobs = learned_logprobs(model, [texts[i] for i in rows])
            loss = loss - text_weight * logprobs.mean()
        return loss

    plan = FitPlan(
        [len(s.given) + len(s.tokens) for s in steps], num_rows, num_steps, settings, seed
    )
    losses = fit(model, plan, loss_of, progress)
    return TreeReport(num_steps, len(steps), *ends_of(losses), ends_of(moved)[1])


def _logprobs(model: LanguageModel, steps: Sequence[_Step]) -> Tensor:
    """log p of every token of some steps, one after the other."""
    rows = [s.given + s.tokens for s in steps]
    return counted_logprobs(model, rows, [len(s.given) for s in steps]).logprob_N.float()


@torch.no_grad()
def _written(model: LanguageModel, steps: Sequence[_Step]) -> list[Tensor]:
    """The same before training, a tensor a step."""
    found: list[Tensor] = []
    for start, end in looked_at_once([len(s.given) + len(s.tokens) for s in steps], model):
        part = steps[start:end]
        found += _logprobs(model, part).cpu().split([len(s.tokens) for s in part])
    return found


def job_of(lesson: Lesson) -> TreePgJob:
    """Raises NothingToLearnError where no state of a tree has two steps that were tried."""
    config = lesson.config
    siblings = lesson.siblings()
    if not siblings:
        raise NothingToLearnError(
            "no state of a kept search has two steps that differ in what came of them; raise "
            "search.simulations, or set training.method to sft"
        )
    _, texts = lesson.with_replay([*lesson.texts, *lesson.variants])
    return TreePgJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings.model_copy(update={"max_epochs": config.max_epochs}),
        seed=lesson.seed,
        siblings=siblings,
        texts=texts,
        text_weight=config.sft_weight,
        clip=Clip(config.clip_below, config.clip_above),
        counts_alike=config.count_steps_alike,
    )
