"""Critic heads on the GPU: all heads of a wanted row in one read of its hidden state."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, WIDTH = 4, 1024


@triton.jit
def heads_kernel(
    hidden,
    weight,
    rows,
    out,
    M,
    E,
    stride_hr,
    stride_he,
    stride_ws,
    stride_we,
    S: tl.constexpr,
    HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """out[m, s] = hidden[rows[m]] . weight[s]; HEADS is S up to a power of two."""
    m_ix = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    in_m = m_ix < M
    row = tl.load(rows + m_ix, mask=in_m, other=0).to(tl.int64)
    head = tl.arange(0, HEADS)
    along = tl.arange(0, WIDTH)
    acc = tl.zeros((ROWS, HEADS), dtype=tl.float32)
    for e in range(0, E, WIDTH):
        at = e + along
        in_e = at < E
        h = tl.load(
            hidden + row[:, None] * stride_hr + at[None, :] * stride_he,
            mask=in_m[:, None] & in_e[None, :],
            other=0.0,
        ).to(tl.float32)
        for s in tl.static_range(S):
            w = tl.load(weight + s * stride_ws + at * stride_we, mask=in_e, other=0.0)
            dot = tl.sum(h * w.to(tl.float32)[None, :], axis=1)
            acc += tl.where(head[None, :] == s, dot[:, None], 0.0)
    tl.store(out + m_ix[:, None] * S + head[None, :], acc, mask=in_m[:, None] & (head < S)[None, :])


class FusedCriticHeads(torch.autograd.Function):
    """(hidden_RE, weight_SE, rows_M) -> float32 [M, S]."""

    @staticmethod
    def forward(ctx: Any, hidden_RE: Tensor, weight_SE: Tensor, rows_M: Tensor) -> Tensor:
        M, (S, E) = len(rows_M), weight_SE.shape
        out_MS = torch.empty((M, S), dtype=torch.float32, device=hidden_RE.device)
        heads_kernel[(triton.cdiv(M, ROWS),)](
            hidden_RE,
            weight_SE,
            rows_M,
            out_MS,
            M,
            E,
            *hidden_RE.stride(),
            *weight_SE.stride(),
            S,
            triton.next_power_of_2(S),
            ROWS,
            WIDTH,
            num_warps=4,
        )
        ctx.save_for_backward(hidden_RE, weight_SE, rows_M)
        return out_MS

    @staticmethod
    def backward(ctx: Any, grad_MS: Tensor) -> tuple[Tensor | None, ...]:
        """Plain products: the rows are few, and a row may be wanted more than once."""
        hidden_RE, weight_SE, rows_M = ctx.saved_tensors
        wants = ctx.needs_input_grad
        d_hidden = d_weight = None
        if wants[0]:
            whole = torch.zeros(hidden_RE.shape, dtype=torch.float32, device=hidden_RE.device)
            d_hidden = whole.index_add_(0, rows_M, grad_MS @ weight_SE.float())
            d_hidden = d_hidden.to(hidden_RE.dtype)
        if wants[1]:
            d_weight = (grad_MS.t() @ hidden_RE[rows_M].float()).to(weight_SE.dtype)
        return d_hidden, d_weight, None
