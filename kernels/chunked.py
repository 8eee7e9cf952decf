"""linear_logprob a few rows at a time: no [rows, vocabulary] tensor is ever whole.

Each part's logits are made, reduced and dropped; the backward pass makes them again. On a CPU that
costs about a third more multiplications and saves the reads and writes of the logits.
"""

from typing import Any

import torch
from torch import Tensor

PART = 1 << 22
"""Logits at a time, numbers."""
MIN_ROWS = 4
"""Of a part, where there are as many: fewer are multiplied in another order on some CPUs."""


class ChunkedLinearLogprob(torch.autograd.Function):
    """(hidden_ME, weight_VE, target_M, temperature_M, wants_entropy) -> logprob, entropy, lse.

    All float32 [M]. A target of -1 stands for a row that counts for nothing: 0 and no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ME: Tensor,
        weight_VE: Tensor,
        target_M: Tensor,
        temperature_M: Tensor,
        wants_entropy: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        M = len(hidden_ME)
        logprob_M, entropy_M, lse_M = (hidden_ME.new_zeros(M, dtype=torch.float32) for _ in "abc")
        for part in _parts(M, len(weight_VE)):
            z_PV = _logits(hidden_ME[part], weight_VE, temperature_M[part])
            lse_P = torch.logsumexp(z_PV, dim=1)
            target_P = target_M[part].clamp(min=0)[:, None]
            lse_M[part] = lse_P
            logprob_M[part] = z_PV.gather(1, target_P)[:, 0] - lse_P
            if wants_entropy:
                z_PV -= lse_P[:, None]
                entropy_M[part] = -_expected(z_PV)
        for found in (logprob_M, entropy_M, lse_M):
            found.masked_fill_(target_M < 0, 0.0)
        ctx.save_for_backward(hidden_ME, weight_VE, target_M, temperature_M, entropy_M)
        ctx.wants_entropy = wants_entropy
        ctx.set_materialize_grads(False)
        return logprob_M, entropy_M, lse_M

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden_ME, weight_VE, target_M, temperature_M, entropy_M = ctx.saved_tensors
        M, V = len(hidden_ME), len(weight_VE)
        by_logprob, by_entropy, by_lse = (
            hidden_ME.new_zeros(M, dtype=torch.float32)
            if g is None
            else g.float().masked_fill(target_M < 0, 0.0)
            for g in grads
        )
        wants = ctx.needs_input_grad
        d_hidden = torch.empty_like(hidden_ME) if wants[0] else None
        d_weight = torch.zeros_like(weight_VE, dtype=torch.float32) if wants[1] else None
        weight = weight_VE.float()
        for part in _parts(M, V):
            z_PV = _logits(hidden_ME[part], weight_VE, temperature_M[part])
            z_PV -= torch.logsumexp(z_PV, dim=1, keepdim=True)
            share_P1 = (by_lse[part] - by_logprob[part])[:, None]
            if ctx.wants_entropy and grads[1] is not None:
                p_PV = z_PV.exp()
                z_PV += entropy_M[part][:, None]
                z_PV *= -by_entropy[part][:, None]
                z_PV += share_P1
                z_PV *= p_PV
                z_PV.masked_fill_(p_PV == 0, 0.0)
            else:
                z_PV.exp_().mul_(share_P1)
            target_P = target_M[part].clamp(min=0)[:, None]
            z_PV.scatter_add_(1, target_P, by_logprob[part][:, None])
            z_PV /= temperature_M[part][:, None]
            if d_hidden is not None:
                d_hidden[part] = (z_PV @ weight).to(d_hidden.dtype)
            if d_weight is not None:
                d_weight.addmm_(z_PV.t(), hidden_ME[part].float())
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight_VE.dtype),
            None,
            None,
            None,
        )


def _parts(num_rows: int, V: int) -> list[slice]:
    step = max(MIN_ROWS, PART // V)
    starts = list(range(0, num_rows, step))
    if len(starts) > 1 and num_rows - starts[-1] < MIN_ROWS:
        starts.pop()
    return [slice(i, j) for i, j in zip(starts, [*starts[1:], num_rows], strict=True)]


def _logits(hidden_PE: Tensor, weight_VE: Tensor, temperature_P: Tensor) -> Tensor:
    """Float32 logits over the temperature."""
    z_PV = torch.nn.functional.linear(hidden_PE.float(), weight_VE.float())
    return z_PV.div_(temperature_P[:, None])


def _expected(logprob_PV: Tensor) -> Tensor:
    """sum p log p by row, where p log p is 0 for a token of probability 0."""
    return (logprob_PV.exp() * logprob_PV.clamp(min=-1e30)).sum(dim=1)
