"""linear_logprob on the GPU: logits are made a share of the vocabulary at a time.

The product is the vendor library's, and one kernel reduces a share's float32 logits: for each row
the running maximum m, s = sum exp(z - m) and the target's logit; logsumexp = m + log s. Backward: a
share's logits are made again, a second kernel turns them into the gradient with respect to them,
and two products carry it on (chunking: Wijmans et al., "Cut your losses in large-vocabulary
language models", arXiv 2411.09009; Hsu et al., Liger Kernel, arXiv 2410.10989). Memory: O(rows) and
one share.

Shapes: R rows of hidden states, M rows wanted, E hidden width, V vocabulary, C tokens of a share.
"""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.products import add_product, product, put_product

FORWARD_SHARE = 1 << 25
"""Logits that are made together in the forward pass, 128 MiB. Smaller shares that fit the L2 cache
are no faster: what they save in reading they lose in narrower products."""
BACKWARD_SHARE = 1 << 26
"""The same in the backward pass, where each share's part of the hidden states' gradient is added
in float32: fewer are better than small ones."""
LEAST_WIDTH = 1024
"""Tokens of a share, at least: narrower products leave processors idle."""
MOST_BLOCK = 4096
"""Logits of a row that a program looks at together."""


@triton.jit
def reduce_kernel(z, target, state, M, start, width, stride, BLOCK: tl.constexpr):
    """One row's logits of a share into state[0..2, m]: maximum, sum, target's logit."""
    m = tl.program_id(0).to(tl.int64)
    wanted = tl.load(target + m) - start
    top = tl.load(state + m)
    total = tl.load(state + M + m)
    row = z + m * stride
    for at in range(0, width, BLOCK):
        v = at + tl.arange(0, BLOCK)
        x = tl.load(row + v, mask=v < width, other=float("-inf"))
        higher = tl.maximum(top, tl.max(x, axis=0))
        # A row whose logits are all minus infinity so far has nothing to shift by.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = tl.exp(top - base) * total + tl.sum(tl.exp(x - base), axis=0)
        top = higher
    tl.store(state + m, top)
    tl.store(state + M + m, total)
    if (wanted >= 0) & (wanted < width):
        tl.store(state + 2 * M + m, tl.load(row + wanted))


@triton.jit
def gradient_kernel(
    z, target, top, log_total, by_logprob, out, start, width, z_m, out_m, BLOCK: tl.constexpr
):
    """out[m, v - start] = d loss / d logit[m, v], for a block of one row's share."""
    m = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_v = v < width
    x = tl.load(z + m * z_m + v, mask=in_v, other=float("-inf"))
    # Two steps: the maximum is as large as the logits, and their sum would be rounded like them.
    x = x - tl.load(top + m) - tl.load(log_total + m)
    by_p = tl.load(by_logprob + m)
    d = tl.exp(x) * -by_p
    d = tl.where(v == tl.load(target + m) - start, d + by_p, d)
    tl.store(out + m * out_m + v, d.to(out.dtype.element_ty), mask=in_v)


class FusedLinearLogprob(torch.autograd.Function):
    """As chunked.ChunkedLinearLogprob, and with the list of rows; under autocast the products are
    in its type."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RE: Tensor,
        weight_VE: Tensor,
        target_M: Tensor,
        rows_M: Tensor | None,
    ) -> Tensor:
        M, V, device = len(target_M), len(weight_VE), hidden_RE.device
        ctx.save_for_backward(hidden_RE, weight_VE, target_M, rows_M)
        ctx.dtype = hidden_RE.dtype
        if torch.is_autocast_enabled(device.type):
            ctx.dtype = torch.get_autocast_dtype(device.type)
        hidden_RE, weight_VE = hidden_RE.to(ctx.dtype), weight_VE.to(ctx.dtype)
        hidden_ME = hidden_RE if rows_M is None else hidden_RE[rows_M]
        state = _state(M, device)
        for start, end in _shares(M, V, FORWARD_SHARE):
            _reduce(product(hidden_ME, weight_VE[start:end].t()), target_M, state, start)
        ctx.top, ctx.log_total, logprob_M = _logprobs(state)
        return logprob_M.masked_fill_(target_M < 0, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given_RE, given_VE, target_M, rows_M = ctx.saved_tensors
        hidden_RE, weight_VE = given_RE.to(ctx.dtype), given_VE.to(ctx.dtype)
        M, (V, E) = len(target_M), weight_VE.shape
        by_logprob = grads[0].float().masked_fill(target_M < 0, 0.0)
        wants = ctx.needs_input_grad
        hidden_ME = hidden_RE if rows_M is None else hidden_RE[rows_M]
        d_hidden = torch.zeros((M, E), dtype=torch.float32, device=hidden_RE.device)
        d_weight = torch.empty_like(given_VE) if wants[1] else None
        for start, end in _shares(M, V, BACKWARD_SHARE):
            weight_CE = weight_VE[start:end]
            z_MC = product(hidden_ME, weight_CE.t())
            d_MC = torch.empty(z_MC.shape, dtype=hidden_RE.dtype, device=hidden_RE.device)
            _gradient(z_MC, target_M, ctx.top, ctx.log_total, by_logprob, d_MC, start)
            del z_MC
            if wants[0]:
                add_product(d_hidden, d_MC, weight_CE)
            if d_weight is not None:
                put_product(d_weight[start:end], d_MC.t(), hidden_ME)
        if not wants[0]:
            d_hidden_RE = None
        elif rows_M is None:
            d_hidden_RE = d_hidden.to(given_RE.dtype)
        else:
            whole = torch.zeros(hidden_RE.shape, dtype=torch.float32, device=hidden_RE.device)
            d_hidden_RE = whole.index_add_(0, rows_M, d_hidden).to(given_RE.dtype)
        return d_hidden_RE, d_weight, None, None


def gradient_of_rows(
    hidden_PE: Tensor, weight_VE: Tensor, target_P: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of some rows, and the gradient of their sum by the logits, [P, V]; the
    logits are made once and whole."""
    P, V, device = len(hidden_PE), len(weight_VE), hidden_PE.device
    z_PV = product(hidden_PE, weight_VE.t())
    state = _state(P, device)
    _reduce(z_PV, target_P, state, 0)
    top, log_total, logprob_P = _logprobs(state)
    by_P = (target_P >= 0).float()
    d_PV = torch.empty((P, V), dtype=hidden_PE.dtype, device=device)
    _gradient(z_PV, target_P, top, log_total, by_P, d_PV, 0)
    return logprob_P, d_PV


def _state(num_rows: int, device: torch.device) -> Tensor:
    """Of a row that has seen no logits: maximum, sum, target's logit."""
    state = torch.zeros((3, num_rows), dtype=torch.float32, device=device)
    state[0] = float("-inf")
    return state


def _reduce(z_MC: Tensor, target_M: Tensor, state: Tensor, start: int) -> None:
    M, width = z_MC.shape
    block = min(MOST_BLOCK, int(triton.next_power_of_2(width)))
    reduce_kernel[(M,)](
        z_MC, target_M, state, M, start, width, z_MC.stride(0), block, num_warps=_warps(block)
    )


def _logprobs(state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logsumexp of each row in its two parts, and the target's log-probability."""
    top, total, found = state
    top = top.masked_fill(top == float("-inf"), 0.0)
    log_total = total.log()
    return top, log_total, found - top - log_total


def _gradient(
    z_MC: Tensor,
    target_M: Tensor,
    top: Tensor,
    log_total: Tensor,
    by_logprob: Tensor,
    out_MC: Tensor,
    start: int,
) -> None:
    M, width = z_MC.shape
    block = min(MOST_BLOCK, int(triton.next_power_of_2(width)))
    gradient_kernel[(M, triton.cdiv(width, block))](
        z_MC,
        target_M,
        top,
        log_total,
        by_logprob,
        out_MC,
        start,
        width,
        z_MC.stride(0),
        out_MC.stride(0),
        block,
        num_warps=_warps(block),
    )


def _shares(num_rows: int, V: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of the vocabulary, each with about `size` logits."""
    width = max(LEAST_WIDTH, size // num_rows // LEAST_WIDTH * LEAST_WIDTH)
    for start in range(0, V, width):
        yield start, min(start + width, V)


def _warps(block: int) -> int:
    return max(1, min(8, block // 256))
