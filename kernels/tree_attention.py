"""Attention over trees of tokens on the GPU.

All queries of a job over the job's columns with a bias that shows or hides (the ancestor mask of a
packed tree), online softmax over tiles of columns (Dao et al., FlashAttention, arXiv 2205.14135). A
tile that every query of the program is hidden from is skipped.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Tiles(NamedTuple):
    queries: int
    columns: int
    num_warps: int


def tiles_for(dtype: torch.dtype, width: int) -> Tiles:
    """Larger ones spill (kernels.aot). In float32 products are made number by number."""
    is_narrow = width <= 64
    if dtype == torch.float32:
        return Tiles(16, 32 if is_narrow else 16, 8)
    return Tiles(64, 64, 4 if is_narrow else 8)


@triton.jit
def _attend_tile(q, key, value, hidden, top, total, acc, scale, UPCAST: tl.constexpr):
    """One more tile of columns: key [D, C], value [C, D]; `hidden` is added to the scores."""
    if UPCAST:
        q = q.to(tl.float32)
        key = key.to(tl.float32)
    z = tl.dot(q, key, input_precision="ieee") * scale + hidden
    higher = tl.maximum(top, tl.max(z, axis=1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    p = tl.exp(z - base[:, None])
    fade = tl.exp(top - base)
    total = total * fade + tl.sum(p, axis=1)
    if UPCAST:
        value = value.to(tl.float32)
    else:
        p = p.to(value.dtype)
    acc = acc * fade[:, None] + tl.dot(p, value, input_precision="ieee")
    return higher, total, acc


@triton.jit
def attend_kernel(
    query,
    key,
    value,
    bias,
    out,
    Q,
    C,
    D,
    scale,
    G,
    q_n,
    q_g,
    q_q,
    q_d,
    k_n,
    k_g,
    k_c,
    k_d,
    v_n,
    v_g,
    v_c,
    v_d,
    b_n,
    b_q,
    b_c,
    UPCAST: tl.constexpr,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One tile of queries of one head of one job; out is [N, G, Q, D], contiguous."""
    pid = tl.program_id(1)
    n = (pid // G).to(tl.int64)
    g = (pid % G).to(tl.int64)
    q_ix = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    d_ix = tl.arange(0, WIDTH)
    in_q, in_d = q_ix < Q, d_ix < D
    q = tl.load(
        query + n * q_n + g * q_g + q_ix[:, None] * q_q + d_ix[None, :] * q_d,
        mask=in_q[:, None] & in_d[None, :],
        other=0.0,
    )
    top = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    acc = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
    for c in range(0, C, COLUMNS):
        c_ix = c + tl.arange(0, COLUMNS)
        in_c = c_ix < C
        hidden = tl.load(
            bias + n * b_n + q_ix[:, None] * b_q + c_ix[None, :] * b_c,
            mask=in_q[:, None] & in_c[None, :],
            other=float("-inf"),
        ).to(tl.float32)
        if tl.max(tl.max(hidden, axis=1), axis=0) > float("-inf"):
            k = tl.load(
                key + n * k_n + g * k_g + c_ix[None, :] * k_c + d_ix[:, None] * k_d,
                mask=in_d[:, None] & in_c[None, :],
                other=0.0,
            )
            v = tl.load(
                value + n * v_n + g * v_g + c_ix[:, None] * v_c + d_ix[None, :] * v_d,
                mask=in_c[:, None] & in_d[None, :],
                other=0.0,
            )
            top, total, acc = _attend_tile(q, k, v, hidden, top, total, acc, scale, UPCAST)
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    at = out + ((n * G + g) * Q + q_ix[:, None]) * D + d_ix[None, :]
    tl.store(at, acc.to(out.dtype.element_ty), mask=in_q[:, None] & in_d[None, :])


def attend(q_NGQD: Tensor, key: Tensor, value: Tensor, bias_N1QC: Tensor, upcast: bool) -> Tensor:
    N, G, Q, D = q_NGQD.shape
    C = key.shape[2]
    tiles = tiles_for(q_NGQD.dtype, D)
    queries = min(tiles.queries, max(16, triton.next_power_of_2(Q)))
    out = torch.empty((N, G, Q, D), dtype=q_NGQD.dtype, device=q_NGQD.device)
    attend_kernel[(triton.cdiv(Q, queries), N * G)](
        q_NGQD,
        key,
        value,
        bias_N1QC,
        out,
        Q,
        C,
        D,
        D**-0.5,
        G,
        *q_NGQD.stride(),
        *key.stride(),
        *value.stride(),
        bias_N1QC.stride(0),
        bias_N1QC.stride(2),
        bias_N1QC.stride(3),
        upcast,
        queries,
        tiles.columns,
        _width(D),
        num_warps=tiles.num_warps,
        num_stages=2,
    )
    return out


def _width(D: int) -> int:
    """Matrix instructions take sixteen numbers at least."""
    return max(16, int(triton.next_power_of_2(D)))
