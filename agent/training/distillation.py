"""One model brought near another's distribution over next tokens.

Shapes: B rows, T tokens, N learned tokens of all rows, E hidden width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agent.engine.batch import padded
from agent.networks.language_model import LanguageModel
from agent.networks.pictures import without_pictures
from agent.training.examples import Example
from agent.training.fit import looked_at_once
from agent.training.logprobs import counted_mask

MOST_LOGITS = 2**24
"""That are there at once, of each model."""
CROSSED = 0.1
"""Weight of the cross-entropy; of the total variation the rest (LOG.md)."""
KEPT_BYTES = 2**29
"""Of the teacher's states."""


def learned_states(
    model: LanguageModel, rows: Sequence[Example], positions_BT: Tensor | None = None
) -> Tensor:
    """States [N, E] before the learned tokens, row by row."""
    if model.arch.vision is None:  # who sees no pictures is told the words
        told = [_told(row) for row in rows]
        if told != list(rows):
            rows, positions_BT = told, None  # the places were those of longer rows
    tokens_BT, lengths_B = padded([row.tokens for row in rows])
    mask_BT = counted_mask(lengths_B, [row.num_prompt for row in rows], tokens_BT.shape[1])
    positions = None if positions_BT is None else positions_BT.to(model.device)
    hidden_BTE = model(tokens_BT.to(model.device), positions)
    found: Tensor = hidden_BTE[:, :-1][mask_BT.to(model.device)]
    return found


def _told(row: Example) -> Example:
    given = without_pictures(row.tokens[: row.num_prompt])
    return Example((*given, *row.tokens[row.num_prompt :]), len(given))


class Teacher:
    """A model that does not change: what it makes of a text is made once, as far as it is kept."""

    def __init__(self, model: LanguageModel, texts: Sequence[Example]) -> None:
        self.model = model
        self.texts = texts
        self._kept: dict[int, Tensor] = {}
        self._kept_bytes = 0

    @torch.no_grad()
    def states(self, rows: Sequence[int], positions_BT: Tensor | None = None) -> Tensor:
        """States [N, E] before the learned tokens of these texts."""
        if positions_BT is not None:  # drawn anew each time
            return learned_states(self.model, [self.texts[i] for i in rows], positions_BT)
        new = [i for i in dict.fromkeys(rows) if i not in self._kept]
        found: dict[int, Tensor] = {}
        if new:
            texts = [self.texts[i] for i in new]
            sizes = [len(text.tokens) - max(1, text.num_prompt) for text in texts]
            made = learned_states(self.model, texts).split(sizes)
            for i, state in zip(new, made, strict=True):
                found[i] = state
                if self._kept_bytes + state.nbytes <= KEPT_BYTES:
                    self._kept[i] = state.clone()
                    self._kept_bytes += state.nbytes
        return torch.cat([found[i] if i in found else self._kept[i] for i in rows])


def distillation_loss(
    teacher: LanguageModel, wanted_NE: Tensor, student: LanguageModel, own_NE: Tensor
) -> Tensor:
    """The sum over the N tokens of the total variation of the two distributions, 1 - sum min(p, q),
    and a little of the student's cross-entropy under the teacher's.

    A draft is kept with the probability that is not the total variation (Leviathan et al. 2023,
    corollary 3.6). But its gradient is weak where the student is far off, and that of the
    cross-entropy is not (DistillSpec, Zhou et al., arXiv 2310.08461, compares such losses).
    """

    def of_part(wanted_PE: Tensor, own_PE: Tensor) -> Tensor:
        with torch.no_grad():
            p_PV = torch.softmax(teacher.logits(wanted_PE).float(), dim=-1)
        log_q_PV = torch.log_softmax(student.logits(own_PE).float(), dim=-1)
        crossed = -(p_PV * log_q_PV).sum()
        varied = (p_PV - log_q_PV.exp()).abs().sum() / 2
        return CROSSED * crossed + (1 - CROSSED) * varied

    parts = list(zip(wanted_NE.split(_part(teacher)), own_NE.split(_part(teacher)), strict=True))
    if len(parts) == 1:
        return of_part(*parts[0])
    found = [checkpoint(of_part, *part, use_reentrant=False) for part in parts]
    return torch.stack(found).sum()


@torch.inference_mode()
def expected_acceptance(
    policy: LanguageModel, drafter: LanguageModel, examples: Sequence[Example]
) -> float:
    """Mean overlap sum min(p, q) of the two distributions, at temperature 1, over the texts."""
    total, count = 0.0, 0
    for start, end in looked_at_once([len(e.tokens) for e in examples], policy):
        rows = examples[start:end]
        states = (learned_states(model, rows).split(_part(policy)) for model in (policy, drafter))
        for ours, theirs in zip(*states, strict=True):
            p_PV = torch.softmax(policy.logits(ours).float(), dim=-1)
            q_PV = torch.softmax(drafter.logits(theirs).float(), dim=-1)
            total += float(torch.minimum(p_PV, q_PV).sum())
            count += len(p_PV)
    return total / count if count else 0.0


def _part(model: LanguageModel) -> int:
    """Tokens whose logits are there at once."""
    return max(1, MOST_LOGITS // model.arch.vocab_size)
