"""linear_logprob a few rows at a time: no [rows, vocabulary] tensor is ever whole.

Each part's logits are made, reduced and dropped; the backward pass makes them again. On a CPU that
costs about a third more multiplications and saves the reads and writes of the logits.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.products import add_product

PART = 1 << 22
"""Logits at a time, numbers."""
LOW_PART = 1 << 25
"""The same where products are in bfloat16: a part's share of the weight's gradient is added in
float32, which costs as much as reading the weight."""


class ChunkedLinearLogprob(torch.autograd.Function):
    """(hidden_ME, weight_VE, target_M) -> logprob, float32 [M].

    A target of -1 stands for a row that counts for nothing: 0 and no gradient. Under autocast the
    products are in its type, everything else in float32.
    """

    @staticmethod
    def forward(ctx: Any, hidden_ME: Tensor, weight_VE: Tensor, target_M: Tensor) -> Tensor:
        M, device = len(hidden_ME), hidden_ME.device.type
        ctx.dtype = product_dtype(device)
        logprob_M = hidden_ME.new_zeros(M, dtype=torch.float32)
        with torch.autocast(device, enabled=False):
            hidden, weight = hidden_ME.to(ctx.dtype), weight_VE.to(ctx.dtype)
            for part in parts(M, len(weight_VE), ctx.dtype):
                z_PV = torch.nn.functional.linear(hidden[part], weight).float()
                target_P = target_M[part].clamp(min=0)[:, None]
                logprob_M[part] = z_PV.gather(1, target_P)[:, 0] - torch.logsumexp(z_PV, dim=1)
        ctx.save_for_backward(hidden_ME, weight_VE, target_M)
        return logprob_M.masked_fill_(target_M < 0, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ME, weight_VE, target_M = ctx.saved_tensors
        by_logprob = grads[0].float().masked_fill(target_M < 0, 0.0)
        wants = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden_ME) if wants[0] else None
        d_weight = torch.zeros_like(weight_VE, dtype=torch.float32) if wants[1] else None
        hidden, weight = hidden_ME.to(ctx.dtype), weight_VE.to(ctx.dtype)
        for part in parts(len(hidden_ME), len(weight_VE), ctx.dtype):
            z_PV = torch.nn.functional.linear(hidden[part], weight).float()
            z_PV -= torch.logsumexp(z_PV, dim=1, keepdim=True)
            gradient_of(z_PV, target_M[part].clamp(min=0)[:, None], by_logprob[part][:, None])
            by_z_PV = z_PV.to(ctx.dtype)
            if d_hidden is not None:
                d_hidden[part] = (by_z_PV @ weight).to(d_hidden.dtype)
            if d_weight is not None:
                add_product(d_weight, by_z_PV.t(), hidden[part])
        return d_hidden, None if d_weight is None else d_weight.to(weight_VE.dtype), None


def gradient_of(logprob_PV: Tensor, target_P1: Tensor, by_P1: Tensor) -> None:
    """Turn log-probabilities into the gradient by the logits, in place: `by_P1` is that by each
    row's target."""
    logprob_PV.exp_().mul_(-by_P1)
    logprob_PV.scatter_add_(1, target_P1, by_P1)


def product_dtype(device: str) -> torch.dtype:
    """What products are made in: autocast's type where it is on."""
    is_low = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_low else torch.float32


def parts(num_rows: int, V: int, dtype: torch.dtype = torch.float32) -> list[slice]:
    """Rows whose logits are made together."""
    step = max(1, (PART if dtype == torch.float32 else LOW_PART) // V)
    return [slice(i, min(i + step, num_rows)) for i in range(0, num_rows, step)]


def logits_of(hidden_PE: Tensor, weight_VE: Tensor) -> Tensor:
    """In float32: with sixteen bits the logits themselves would be rounded."""
    return torch.nn.functional.linear(hidden_PE.float(), weight_VE.float())
