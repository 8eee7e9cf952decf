"""The drafter: the policy's first blocks, distilled on the policy's own texts (Inheritune)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint
from agent.engine.batch import padded
from agent.networks.language_model import LanguageModel
from agent.training.examples import Example
from agent.training.fit import OnStep
from agent.training.job import LoopJob
from agent.training.methods.sft import train_on_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterJob(LoopJob):
    """Cut a drafter from the policy's first layers and distil it on texts."""

    examples: Sequence[Example]

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        drafter = cut_drafter(model)
        tenth = len(self.examples) // 10
        dev, texts = self.examples[:tenth], self.examples[tenth:]
        texts = texts or self.examples
        report = asdict(train_on_texts(drafter, texts, self.settings, self.seed, progress))
        report["acceptance"] = expected_acceptance(model, drafter, dev or self.examples)
        return drafter, report


MOST_LOGITS = 200_000
"""Places of a vocabulary, times texts, that are compared at once."""


def cut_drafter(policy: LanguageModel, share: float = 0.5) -> LanguageModel:
    """The first layers of the policy, `share` of them, and its embeddings, norm and head."""
    return policy.first_layers(max(1, round(share * policy.arch.num_layers)))


@torch.inference_mode()
def expected_acceptance(
    policy: LanguageModel, drafter: LanguageModel, examples: Sequence[Example]
) -> float:
    """Mean overlap sum min(p, q) of the two distributions, at temperature 1, over the texts."""
    total, count = 0.0, 0
    device = policy.device
    step = max(1, min(64, MOST_LOGITS // policy.arch.vocab_size))
    for start in range(0, len(examples), step):
        part = examples[start : start + step]
        tokens_BT, lengths_B = padded([e.tokens for e in part])
        tokens_BT, lengths_B = tokens_BT.to(device), lengths_B.to(device)
        given_B = torch.tensor([e.num_prompt for e in part], device=device)
        place = torch.arange(tokens_BT.shape[1], device=device)
        learned = (place >= given_B[:, None] - 1) & (place < lengths_B[:, None] - 1)
        p = torch.softmax(policy.logits(policy(tokens_BT)[learned]).float(), dim=-1)
        q = torch.softmax(drafter.logits(drafter(tokens_BT)[learned]).float(), dim=-1)
        total += float(torch.minimum(p, q).sum())
        count += p.shape[0]
    return total / count if count else 0.0
