"""Going on training a critic of either form, measured before and after on the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.publish import dtype_on_disk
from agent.networks.language_model import LanguageModel
from agent.training.examples import CriticExample, judged_rows, scalar_rows
from agent.training.fit import OnStep, measured_in, product_dtype
from agent.training.head_critics import measure_critic, train_critic
from agent.training.job import LoopJob
from agent.training.labelling import Split
from agent.training.optimizer import TrainingSettings
from agent.training.token_critics import measure_token_critic, train_token_critic


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticJob(LoopJob):
    split: Split
    tuned_layers: int = 0
    """Blocks that training changes, the last ones; 0: all, and the embeddings."""

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        if self.tuned_layers:
            # In bfloat16 where products are made in it anyway, and no bit on disk is lost by it.
            dtype = product_dtype(model, self.settings)
            is_exact = dtype_on_disk(parent) == dtype
            model.freeze(self.tuned_layers, dtype if is_exact else torch.float32)
        measure = measured_in(
            model, self.settings, lambda: measured_critic(model, self.split.held_out)
        )
        before = measure()
        report: dict[str, Any] = trained_critic(
            model, self.split, self.settings, self.seed, progress
        )
        report |= measure()
        return model, report | {
            "num_examples": len(self.split.train),
            "parent_auc": before["auc"],
        }


def trained_critic(
    critic: LanguageModel,
    split: Split,
    settings: TrainingSettings,
    seed: int,
    progress: OnStep | None = None,
) -> dict[str, float]:
    """Train a critic of either form in place; the report of its losses."""
    if critic.is_critic:
        return train_critic(
            critic, scalar_rows(split.train), scalar_rows(split.held_out), settings, seed, progress
        )
    return train_token_critic(
        critic, judged_rows(split.train), judged_rows(split.held_out), settings, seed, progress
    )


def measured_critic(critic: LanguageModel, held_out: Sequence[CriticExample]) -> dict[str, Any]:
    if critic.is_critic:
        return measure_critic(critic, scalar_rows(held_out))
    return measure_token_critic(critic, judged_rows(held_out))
