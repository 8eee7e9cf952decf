"""Several processes that train one model: each takes its rows of a batch, gradients add up.

Outside a process group there is one rank, and everything here does nothing. With several, every
rank draws the same batches from the same seed; the loss of a rank is its share of the batch's
mean, so that the sum of gradients is the gradient of one process.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import distributed

Row = TypeVar("Row")


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rows_of(rows: Sequence[Row], number: int) -> list[Row]:
    """The rows of a batch that the rank of this number takes."""
    return list(rows[number :: world_size()])


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum every parameter's gradient over the ranks, in one message."""
    if world_size() == 1:
        return
    held = list(parameters)
    parts = [p.grad if p.grad is not None else torch.zeros_like(p) for p in held]
    flat = torch.cat([part.reshape(-1) for part in parts])
    distributed.all_reduce(flat)
    start = 0
    for parameter in held:
        size = parameter.numel()
        parameter.grad = flat[start : start + size].view_as(parameter).clone()
        start += size


def least(value: float) -> float:
    """The smallest of a number over the ranks: what all of them can do."""
    return _reduced(value, distributed.ReduceOp.MIN)


def total(value: float) -> float:
    """The sum of a number over the ranks."""
    return _reduced(value, distributed.ReduceOp.SUM)


def _reduced(value: float, how: distributed.ReduceOp.RedOpType) -> float:
    if world_size() == 1:
        return value
    on_gpu = distributed.get_backend() == "nccl"
    held = torch.tensor([value], dtype=torch.float64, device="cuda" if on_gpu else "cpu")
    distributed.all_reduce(held, how)
    return float(held[0])
