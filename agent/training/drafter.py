"""The drafter: some of the policy's blocks, distilled on the policy's own texts.

It begins as the policy's first blocks (Inheritune, arXiv 2404.08634). A round's goes on from the
one before it, for a round changes the policy little, and a new cut would have to learn all again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.networks.language_model import LanguageModel
from agent.training.distillation import (
    Teacher,
    distillation_loss,
    expected_acceptance,
    learned_states,
)
from agent.training.examples import Example
from agent.training.fit import Batch, FitPlan, OnStep, ends_of, fit, measured_in, planned_steps
from agent.training.job import LoopJob, adapted_model
from agent.training.optimizer import TrainingSettings


@dataclass(frozen=True, slots=True)
class DistillationReport:
    num_steps: int
    num_examples: int
    first_loss: float
    """Mean over the first tenth of the steps, a token (`distillation_loss`)."""
    last_loss: float
    """Mean over the last tenth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterJob(LoopJob):
    """Teach a drafter what the policy, its parent, would say on texts."""

    examples: Sequence[Example]
    beside_bytes: ClassVar[float] = 4.0
    """The policy."""
    start: str = ""
    """Directory of the drafter to go on from; empty: the policy's first half."""

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        drafter, went_on_from = self._begun(model, parent)
        tenth = len(self.examples) // 10
        dev, texts = self.examples[:tenth], self.examples[tenth:]
        dev, texts = dev or self.examples, texts or self.examples
        acceptance = measured_in(
            model, self.settings, lambda: expected_acceptance(model, drafter, dev)
        )
        before = acceptance()
        report = asdict(distil(model, drafter, texts, self.settings, self.seed, progress))
        report |= {"acceptance_before": before, "acceptance": acceptance()}
        return drafter, report | {"went_on_from": went_on_from}

    def _begun(self, policy: LanguageModel, parent: Checkpoint) -> tuple[LanguageModel, str]:
        """(drafter, version of the one that it goes on from). One of another network or, of
        adapters, on another base is left for a new cut."""
        if self.start:
            earlier = verify_checkpoint(self.start)
            if _can_go_on(earlier, parent, self.settings.lora_rank):
                device = str(policy.device)
                return adapted_model(earlier, self.settings, self.seed, device), earlier.version
        return cut_drafter(policy), ""


def _can_go_on(earlier: Checkpoint, parent: Checkpoint, lora_rank: int) -> bool:
    depth = earlier.architecture.num_layers
    is_alike = replace(parent.architecture.language, num_layers=depth) == earlier.architecture
    if not lora_rank:
        return is_alike
    is_on_base = earlier.whole.version == parent.whole.version
    is_of_rank = earlier.adapter is None or earlier.adapter.rank == lora_rank
    return is_alike and is_on_base and is_of_rank


def cut_drafter(policy: LanguageModel, share: float = 0.5) -> LanguageModel:
    """The first layers of the policy, `share` of them, and its embeddings, norm and head."""
    return policy.first_layers(max(1, round(share * policy.arch.num_layers)))


def distil(
    policy: LanguageModel,
    drafter: LanguageModel,
    texts: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    progress: OnStep | None = None,
) -> DistillationReport:
    """Bring the drafter's distribution near the policy's at every learned token, in place.

    Raises DivergedError when the loss stops being finite.
    """
    num_steps = planned_steps(len(texts), settings)
    teacher = Teacher(policy, texts)

    def loss_of(batch: Batch) -> Tensor:
        num_learned = sum(
            len(texts[i].tokens) - max(1, texts[i].num_prompt) for i in batch.all_rows
        )
        wanted_NE = teacher.states(batch.rows, batch.positions_BT)
        own_NE = learned_states(drafter, [texts[i] for i in batch.rows], batch.positions_BT)
        return distillation_loss(policy, wanted_NE, drafter, own_NE) / num_learned

    lengths = [len(text.tokens) for text in texts]
    plan = FitPlan(lengths, settings.batch_size, num_steps, settings, seed, True)
    losses = fit(drafter, plan, loss_of, progress)
    return DistillationReport(num_steps, len(texts), *ends_of(losses))
