"""The sum of log softmax(hidden @ weight.T) at the targets, with its gradient made on the way.

Where every target counts alike, as in supervised fine-tuning, the gradient of the sum is known up
to one number before the backward pass begins. So a part of the rows has its logits made once: they
are reduced, turned into the gradient with respect to them, and carried on by two products; three
products in all, where making the logits again takes four (chunks of rows: Hsu et al., Liger Kernel,
arXiv 2410.10989). The backward pass multiplies by that number.

Shapes: M rows, E hidden width, V vocabulary, P rows of a part.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.chunked import gradient_of, parts, product_dtype
from kernels.products import add_product

GPU_PART = 1 << 28
"""Logits of a part on a GPU, numbers."""


class SummedLogprob(torch.autograd.Function):
    """(hidden_ME, weight_VE, target_M, is_fused) -> the sum, float32.

    A target of -1 stands for a row that counts for nothing. Under autocast the products are in its
    type, all else in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_ME: Tensor, weight_VE: Tensor, target_M: Tensor, is_fused: bool
    ) -> Tensor:
        device = hidden_ME.device.type
        dtype = product_dtype(device)
        if is_fused and dtype == torch.float32:
            dtype = hidden_ME.dtype
        wants = ctx.needs_input_grad
        total = torch.zeros((), device=hidden_ME.device)
        d_hidden = torch.empty_like(hidden_ME) if wants[0] else None
        d_weight = torch.zeros_like(weight_VE, dtype=torch.float32) if wants[1] else None
        with torch.autocast(device, enabled=False):
            hidden, weight = hidden_ME.to(dtype), weight_VE.to(dtype)
            for part in _parts(len(hidden), len(weight), dtype, device):
                target_P = target_M[part]
                make = _fused_gradient if is_fused else _gradient
                logprob_P, by_z_PV = make(hidden[part], weight, target_P)
                total += logprob_P.masked_fill(target_P < 0, 0.0).sum()
                if d_hidden is not None:
                    d_hidden[part] = (by_z_PV @ weight).to(d_hidden.dtype)
                if d_weight is not None:
                    add_product(d_weight, by_z_PV.t(), hidden[part])
        ctx.save_for_backward(d_hidden, None if d_weight is None else d_weight.to(weight_VE.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight = ctx.saved_tensors
        return (
            None if d_hidden is None else (d_hidden * grads[0]).to(d_hidden.dtype),
            None if d_weight is None else (d_weight * grads[0]).to(d_weight.dtype),
            None,
            None,
        )


def _gradient(hidden_PE: Tensor, weight_VE: Tensor, target_P: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and the gradient of their sum by the logits in the products' type."""
    z_PV = torch.nn.functional.linear(hidden_PE, weight_VE).float()
    z_PV -= torch.logsumexp(z_PV, dim=1, keepdim=True)
    at_P1 = target_P.clamp(min=0)[:, None]
    logprob_P = z_PV.gather(1, at_P1)[:, 0]
    gradient_of(z_PV, at_P1, (target_P >= 0).float()[:, None])
    return logprob_P, z_PV.to(hidden_PE.dtype)


def _fused_gradient(
    hidden_PE: Tensor, weight_VE: Tensor, target_P: Tensor
) -> tuple[Tensor, Tensor]:
    from kernels import linear_logprob

    return linear_logprob.gradient_of_rows(hidden_PE, weight_VE, target_P)


def _parts(num_rows: int, V: int, dtype: torch.dtype, device: str) -> list[slice]:
    if device == "cpu":
        return parts(num_rows, V, dtype)
    step = max(1, GPU_PART // V)
    return [slice(i, min(i + step, num_rows)) for i in range(0, num_rows, step)]
