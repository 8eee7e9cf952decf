"""Attention over trees of tokens on the GPU.

`attend`: all queries of a job over the job's columns with a bias that shows or hides (the
ancestor mask of a packed tree), online softmax over tiles of columns (Dao et al., FlashAttention,
arXiv 2205.14135); a tile that every query of the program is hidden from is skipped.
`attend_prefix`: one query a node over a prefix that all nodes share, read once for all of them, and
over the node's own segment; the parts are merged by their logsumexp (Juravsky et al., Hydragen,
arXiv 2402.05099).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SHARE = 256
"""Columns of the prefix that one program reads."""


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


@triton.jit
def prefix_kernel(
    query,
    key,
    value,
    part_out,
    part_lse,
    N,
    P,
    D,
    H,
    G,
    scale,
    q_n,
    q_h,
    q_d,
    k_p,
    k_g,
    k_d,
    v_p,
    v_g,
    v_d,
    UPCAST: tl.constexpr,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    SHARE: tl.constexpr,
):
    """One key head, one tile of (node, head) queries, one share of the prefix."""
    g = tl.program_id(1).to(tl.int64)
    share = tl.program_id(2)
    group = H // G
    i = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    in_q = i < N * group
    n = i // group
    h = g * group + i % group
    d_ix = tl.arange(0, WIDTH)
    in_d = d_ix < D
    q = tl.load(
        query + n[:, None].to(tl.int64) * q_n + h[:, None] * q_h + d_ix[None, :] * q_d,
        mask=in_q[:, None] & in_d[None, :],
        other=0.0,
    )
    top = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    acc = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
    for c in range(share * SHARE, tl.minimum((share + 1) * SHARE, P), COLUMNS):
        c_ix = c + tl.arange(0, COLUMNS)
        in_c = c_ix < tl.minimum((share + 1) * SHARE, P)
        hidden = tl.where(in_c, 0.0, float("-inf"))[None, :]
        k = tl.load(
            key + c_ix[None, :].to(tl.int64) * k_p + g * k_g + d_ix[:, None] * k_d,
            mask=in_d[:, None] & in_c[None, :],
            other=0.0,
        )
        v = tl.load(
            value + c_ix[:, None].to(tl.int64) * v_p + g * v_g + d_ix[None, :] * v_d,
            mask=in_c[:, None] & in_d[None, :],
            other=0.0,
        )
        top, total, acc = _attend_tile(q, k, v, hidden, top, total, acc, scale, UPCAST)
    place = share.to(tl.int64) * N * H + n * H + h
    tl.store(part_lse + place, top + tl.log(total), mask=in_q)
    tl.store(
        part_out + place[:, None] * D + d_ix[None, :],
        acc / total[:, None],
        mask=in_q[:, None] & in_d[None, :],
    )


@triton.jit
def segment_kernel(
    query,
    key,
    value,
    lengths,
    part_out,
    part_lse,
    out,
    N,
    S,
    D,
    H,
    G,
    num_shares,
    scale,
    q_n,
    q_h,
    q_d,
    k_n,
    k_s,
    k_g,
    k_d,
    v_n,
    v_s,
    v_g,
    v_d,
    UPCAST: tl.constexpr,
    QUERIES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The heads of one key head of one node over the node's segment, merged with the prefix."""
    n = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1).to(tl.int64)
    group = H // G
    i = tl.arange(0, QUERIES)
    in_q = i < group
    h = g * group + i
    d_ix = tl.arange(0, WIDTH)
    in_d = d_ix < D
    q = tl.load(
        query + n * q_n + h[:, None] * q_h + d_ix[None, :] * q_d,
        mask=in_q[:, None] & in_d[None, :],
        other=0.0,
    )
    length = tl.minimum(tl.load(lengths + n).to(tl.int32), S)
    top = tl.full((QUERIES,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((QUERIES,), dtype=tl.float32)
    acc = tl.zeros((QUERIES, WIDTH), dtype=tl.float32)
    for c in range(0, length, COLUMNS):
        c_ix = c + tl.arange(0, COLUMNS)
        in_c = c_ix < length
        hidden = tl.where(in_c, 0.0, float("-inf"))[None, :]
        k = tl.load(
            key + n * k_n + c_ix[None, :] * k_s + g * k_g + d_ix[:, None] * k_d,
            mask=in_d[:, None] & in_c[None, :],
            other=0.0,
        )
        v = tl.load(
            value + n * v_n + c_ix[:, None] * v_s + g * v_g + d_ix[None, :] * v_d,
            mask=in_c[:, None] & in_d[None, :],
            other=0.0,
        )
        top, total, acc = _attend_tile(q, k, v, hidden, top, total, acc, scale, UPCAST)
    for share in range(num_shares):
        place = (share * N + n) * H + h
        lse = tl.load(part_lse + place, mask=in_q, other=0.0)
        o = tl.load(
            part_out + place[:, None] * D + d_ix[None, :],
            mask=in_q[:, None] & in_d[None, :],
            other=0.0,
        )
        higher = tl.maximum(top, lse)
        fade, weight = tl.exp(top - higher), tl.exp(lse - higher)
        acc = acc * fade[:, None] + o * weight[:, None]
        total = total * fade + weight
        top = higher
    at = out + (n * H + h[:, None]) * D + d_ix[None, :]
    acc = acc / total[:, None]
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


def attend_prefix(
    q_NHD: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    key: Tensor,
    value: Tensor,
    lengths_N: Tensor,
    upcast: bool,
) -> Tensor:
    N, H, D = q_NHD.shape
    P, G, _ = prefix_key.shape
    num_shares = triton.cdiv(P, SHARE)
    out = torch.empty((N, H, D), dtype=q_NHD.dtype, device=q_NHD.device)
    part_out = torch.empty((num_shares, N, H, D), dtype=torch.float32, device=q_NHD.device)
    part_lse = torch.empty((num_shares, N, H), dtype=torch.float32, device=q_NHD.device)
    tiles = tiles_for(q_NHD.dtype, D)
    queries = min(tiles.queries, max(16, triton.next_power_of_2(N * H // G)))
    if num_shares:
        prefix_kernel[(triton.cdiv(N * (H // G), queries), G, num_shares)](
            q_NHD,
            prefix_key,
            prefix_value,
            part_out,
            part_lse,
            N,
            P,
            D,
            H,
            G,
            D**-0.5,
            *q_NHD.stride(),
            *prefix_key.stride(),
            *prefix_value.stride(),
            upcast,
            queries,
            tiles.columns,
            _width(D),
            SHARE,
            num_warps=tiles.num_warps,
            num_stages=2,
        )
    segment_kernel[(N, G)](
        q_NHD,
        key,
        value,
        lengths_N,
        part_out,
        part_lse,
        out,
        N,
        key.shape[1],
        D,
        H,
        G,
        num_shares,
        D**-0.5,
        *q_NHD.stride(),
        *key.stride(),
        *value.stride(),
        upcast,
        max(16, triton.next_power_of_2(H // G)),
        tiles.columns,
        _width(D),
        num_warps=tiles.num_warps,
        num_stages=2,
    )
    return out


def _width(D: int) -> int:
    """Matrix instructions take sixteen numbers at least."""
    return max(16, int(triton.next_power_of_2(D)))
