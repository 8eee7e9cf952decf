"""Log-probabilities of what follows a given beginning, for every loss over texts.

Shapes: B rows, T tokens, N counted tokens of all rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from agent.engine.batch import padded
from agent.networks.language_model import LanguageModel
from kernels import dispatch


class Counted(NamedTuple):
    """Tokens after the given ones of each row."""

    logprob_N: Tensor
    """log p of each, row by row."""
    mask_BT: Tensor
    """Where they are, [B, T - 1]: place t is token t + 1."""

    def per_token(self) -> Tensor:
        """log p at its place, 0 elsewhere, float32 [B, T - 1]."""
        found = self.logprob_N.float()
        zeros = torch.zeros(self.mask_BT.shape, dtype=found.dtype, device=found.device)
        return zeros.masked_scatter(self.mask_BT, found)

    def per_row(self) -> Tensor:
        """Sum over each row's counted tokens, float32 [B]."""
        row_N = torch.nonzero(self.mask_BT)[:, 0]
        zeros = torch.zeros(len(self.mask_BT), device=self.logprob_N.device)
        return zeros.index_add(0, row_N, self.logprob_N.float())


def counted_mask(lengths_B: Tensor, given: Sequence[int], width: int) -> Tensor:
    """Which tokens count, [B, width - 1]: those after the given ones, padding not among them."""
    place_T = torch.arange(1, width)
    given_B = torch.tensor(given)
    return (place_T >= given_B[:, None]) & (place_T < lengths_B[:, None])


def counted_logprobs(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    given: Sequence[int],
    positions_BT: Tensor | None = None,
) -> Counted:
    """log p of all tokens after the first `given` of each row; the first token never counts."""
    hidden_NE, target_N, mask_BT = _counted(model, rows, given, positions_BT)
    head_VE = _head_for(model, hidden_NE)
    return Counted(dispatch.linear_logprob(hidden_NE, head_VE, target_N), mask_BT)


def summed_logprobs(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    given: Sequence[int],
    positions_BT: Tensor | None = None,
) -> Tensor:
    """The sum of `counted_logprobs` over all rows: less work where that is all that is wanted."""
    hidden_NE, target_N, _ = _counted(model, rows, given, positions_BT)
    return dispatch.summed_logprob(hidden_NE, _head_for(model, hidden_NE), target_N)


def _head_for(model: LanguageModel, hidden: Tensor) -> Tensor:
    """The head in the states' type where it is held in another one (under adapters) and autocast,
    which would see to it, is off."""
    if torch.is_autocast_enabled(hidden.device.type):
        return model.head
    return model.head.to(hidden.dtype)


def _counted(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    given: Sequence[int],
    positions_BT: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """States before the counted tokens, these tokens, and where they are."""
    device = model.device
    tokens_BT, lengths_B = padded(rows)
    mask_BT = counted_mask(lengths_B, given, tokens_BT.shape[1]).to(device)
    tokens_BT = tokens_BT.to(device)
    positions = None if positions_BT is None else positions_BT.to(device)
    hidden_NE = model.of_rows(rows, tokens_BT, positions)[:, :-1][mask_BT]
    return hidden_NE, tokens_BT[:, 1:][mask_BT], mask_BT
