"""Rows of different lengths as one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows as a right-padded [B, T] tensor, and their lengths [B]."""
    lengths = torch.tensor([len(r) for r in rows])
    tokens_BT = torch.zeros((len(rows), int(lengths.max())), dtype=torch.long)
    for i, row in enumerate(rows):
        tokens_BT[i, : len(row)] = torch.as_tensor(row)
    return tokens_BT, lengths
