"""Preference training on pairs: DPO, and TR-DPO with a reference that follows.

DPO (Rafailov et al., arXiv 2305.18290) lowers -log sigmoid(beta (margin of the policy - margin of
the reference)), margins being log-probability of the chosen less that of the rejected option. Its
reference never moves. TR-DPO (Gorbatovski et al., arXiv 2404.09656) moves it: softly, by a little
every few steps, reference <- alpha policy + (1 - alpha) reference, or hard, all the way and
seldom. HyPO (Yuan et al., arXiv 2602.11902) takes a reference that prefers the rejected option
for one that prefers neither: DPO is satisfied there before the policy prefers the chosen one. The
negative log-likelihood of whole texts is added, as in iterative reasoning preference optimisation
(Pang et al., arXiv 2404.19733): kept ones, because the probabilities of both options sink
together otherwise, and replayed ones, because a policy forgets what it no longer sees.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agent.checkpoints.checkpoint import Checkpoint
from agent.networks.language_model import LanguageModel
from agent.training.examples import Example, PairExample, batches
from agent.training.fit import Batch, FitPlan, OnStep, ends_of, fit, planned_steps
from agent.training.job import LoopJob
from agent.training.lesson import Lesson
from agent.training.logprobs import counted_logprobs
from agent.training.methods.sft import learned_logprobs
from agent.training.optimizer import TrainingSettings

ReferenceUpdate = Literal["none", "soft", "hard"]
SOFT_STEPS, HARD_STEPS = 8, 128
"""Of a round's 300 to 600 steps: with a tenth a soft reference is half new after 53 of them, a hard
one jumps two to four times. At .6 every 64 steps the two were nearly one."""


@dataclass(frozen=True, slots=True)
class PreferenceSettings:
    beta: float = 0.1
    """How strongly the policy is held to its reference."""
    sft_weight: float = 10.0
    """Of the texts' mean negative log-likelihood a token."""
    reference_update: ReferenceUpdate = "none"
    reference_alpha: float = 0.1
    """Share of the policy in a soft update."""
    reference_steps: int | None = None
    """tau: steps between two updates; None: see `steps_between`."""
    clips_reference: bool = False
    """HyPO: the reference's margin counts where it is above zero."""

    def steps_between(self, num_steps: int) -> int:
        """Of a training of so many steps: a hard reference moves twice before its end, at least."""
        if self.reference_steps is not None:
            return self.reference_steps
        if self.reference_update == "soft":
            return SOFT_STEPS
        return max(1, min(HARD_STEPS, num_steps // 3))


@dataclass(frozen=True, slots=True)
class PreferenceReport:
    num_steps: int
    num_examples: int
    first_loss: float
    last_loss: float
    accuracy: float
    """Share of the last tenth's pairs whose chosen option gained more than the rejected one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DpoJob(LoopJob):
    """DPO or, with a reference that follows, TR-DPO."""

    pairs: Sequence[PairExample]
    texts: Sequence[Example]
    preference: PreferenceSettings

    beside_bytes: ClassVar[float] = 4.0
    """The reference."""

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        data = PairData(self.pairs, self.texts)
        report = train_on_pairs(model, data, self.settings, self.preference, self.seed, progress)
        method = "dpo" if self.preference.reference_update == "none" else "tr-dpo"
        return model, asdict(report) | {"method": method}


@dataclass(frozen=True, slots=True)
class PairData:
    pairs: Sequence[PairExample]
    texts: Sequence[Example] = ()
    """Whole ones, learned beside the pairs."""


def train_on_pairs(
    model: LanguageModel,
    data: PairData,
    settings: TrainingSettings,
    preference: PreferenceSettings,
    seed: int,
    progress: OnStep | None = None,
) -> PreferenceReport:
    """Train in place; the same arguments give the same weights. Raises DivergedError.

    A step takes half a batch of pairs and, where there are texts and they have a weight, a whole
    one of texts.
    """
    pairs, texts = data.pairs, data.texts
    num_pairs = max(1, settings.batch_size // 2)
    num_steps = planned_steps(len(pairs), settings.model_copy(update={"batch_size": num_pairs}))
    between = preference.steps_between(num_steps)
    reference = model.reference()
    wins: list[float] = []
    num_drawn = num_steps if texts and preference.sft_weight else 0
    rng = np.random.default_rng((seed, 1))
    drawn = batches([len(t.tokens) for t in texts], settings.batch_size, num_drawn, rng)

    def loss_of(batch: Batch) -> Tensor:
        part = [pairs[i] for i in batch.rows]
        chosen, rejected = _logprobs(model, part)
        with torch.no_grad():
            old_chosen, old_rejected = _logprobs(reference, part)
        margin = old_chosen - old_rejected
        wins.append(float((chosen - rejected > margin).float().mean()))
        gain = (chosen - rejected) - (margin.clamp(min=0) if preference.clips_reference else margin)
        loss = -F.logsigmoid(preference.beta * gain).mean()
        if rows := next(drawn, []):
            logprobs = learned_logprobs(model, [texts[i] for i in rows])
            loss = loss - preference.sft_weight * logprobs.mean()
        return loss

    def after_step(step: int) -> None:
        if step % between == 0:
            follow(reference, model, preference)

    lengths = [len(p.given) + max(len(p.chosen), len(p.rejected)) for p in pairs]
    plan = FitPlan(lengths, num_pairs, num_steps, settings, seed)
    losses = fit(model, plan, loss_of, progress, after_step=after_step)
    return PreferenceReport(num_steps, len(pairs), *ends_of(losses), ends_of(wins)[1])


@torch.no_grad()
def follow(reference: LanguageModel, policy: LanguageModel, settings: PreferenceSettings) -> None:
    """Move the reference towards the policy, as the settings say."""
    if settings.reference_update == "none":
        return
    share = 1.0 if settings.reference_update == "hard" else settings.reference_alpha
    for old, new in zip(reference.parameters(), policy.parameters(), strict=True):
        if new.requires_grad:
            old.lerp_(new, share)


def _logprobs(model: LanguageModel, pairs: Sequence[PairExample]) -> tuple[Tensor, Tensor]:
    """Log-probability of each pair's chosen and rejected option, [B]."""
    rows = [p.given + p.chosen for p in pairs] + [p.given + p.rejected for p in pairs]
    sums = counted_logprobs(model, rows, [len(p.given) for p in pairs] * 2).per_row()
    return sums[: len(pairs)], sums[len(pairs) :]


def job_of(lesson: Lesson) -> DpoJob:
    """DPO or TR-DPO, as `training.method` says."""
    config = lesson.config
    pairs = lesson.needed_pairs()
    _, texts = lesson.with_replay([*lesson.texts, *lesson.variants])
    return DpoJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings.model_copy(update={"max_epochs": config.max_epochs}),
        seed=lesson.seed,
        pairs=pairs,
        texts=texts,
        preference=PreferenceSettings(
            config.beta,
            config.sft_weight,
            config.reference_update if config.method == "tr-dpo" else "none",
            config.reference_alpha,
            config.reference_steps,
            config.clip_reference,
        ),
    )
