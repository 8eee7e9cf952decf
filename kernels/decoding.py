"""A few tokens of many texts: what a layer does beside its products, in three kernels.

`turn_and_store` turns queries and keys by their positions and writes keys and values to the
cache; `attention` reads of a job's columns those that a row may see, up to the last one; `gated` is
the activation. A row's columns are shared out over several programs where rows are few (flash
decoding: Dao et al., 2023), block after block in turn, so that the shares are even however long the
text is. Nothing here reads a number back, so that a step can be captured in a graph.

Shapes: N rows (tokens), H query heads, G key heads, D head width, S shares, C columns of the cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.dispatch import is_interpreted
from kernels.rows import Rows

COLUMNS = 64
"""Columns that a program looks at together."""
HEADS = 8
"""Heads that a program turns."""
BLOCK = 1024
"""Of the activation."""
MOST_SHARES = 32


@triton.jit
def turn_and_store_kernel(
    qkv,
    turns,
    job,
    column,
    position,
    kept,
    num_positions,
    H,
    G,
    D,
    qkv_n,
    kept_n,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """Queries [n, :H] in place; keys and values to kept[job[n], column[n]]."""
    n = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, HALF)
    in_x = (head < H + 2 * G)[:, None] & (pair < D // 2)[None, :]
    at = qkv + n * qkv_n + head[:, None] * D + 2 * pair[None, :]
    a = tl.load(at, mask=in_x, other=0.0).to(tl.float32)
    b = tl.load(at + 1, mask=in_x, other=0.0).to(tl.float32)
    # What a text writes after its end may lie past the last position; it is dropped later.
    angle = turns + tl.minimum(tl.load(position + n), num_positions - 1) * D + 2 * pair
    cos = tl.load(angle, mask=pair < D // 2, other=1.0)[None, :]
    sin = tl.load(angle + 1, mask=pair < D // 2, other=0.0)[None, :]
    is_turned = (head < H + G)[:, None]
    x = tl.where(is_turned, a * cos - b * sin, a).to(qkv.dtype.element_ty)
    y = tl.where(is_turned, a * sin + b * cos, b).to(qkv.dtype.element_ty)
    is_query = in_x & (head < H)[:, None]
    tl.store(at, x, mask=is_query)
    tl.store(at + 1, y, mask=is_query)
    to = kept + tl.load(job + n) * kept_n + tl.load(column + n) * (2 * G * D)
    to += (head[:, None] - H) * D + 2 * pair[None, :]
    is_kept = in_x & (head >= H)[:, None]
    tl.store(to, x, mask=is_kept)
    tl.store(to + 1, y, mask=is_kept)


@triton.jit
def attention_kernel(
    query,
    kept,
    job,
    end,
    seen,
    out,
    partial,
    G,
    D,
    group,
    scale,
    q_n,
    kept_n,
    seen_n,
    HAS_SEEN: tl.constexpr,
    SHARES: tl.constexpr,
    GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A group of heads of one row over a share of the columns that it sees.

    With one share out[n, h * D + d]; else partial[share, n, h, 0..D + 1]: the weighted values, the
    maximum and the sum.
    """
    n = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    share = tl.program_id(2)
    num = tl.load(end + n).to(tl.int32)
    first = kept + tl.load(job + n) * kept_n + g * D
    inside = tl.arange(0, GROUP)
    d = tl.arange(0, WIDTH)
    in_q = (inside < group)[:, None] & (d < D)[None, :]
    h = g * group + inside
    q = tl.load(query + n * q_n + h[:, None] * D + d[None, :], mask=in_q, other=0.0)
    top = tl.full((GROUP,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((GROUP,), dtype=tl.float32)
    acc = tl.zeros((GROUP, WIDTH), dtype=tl.float32)
    if UPCAST:
        q = q.to(tl.float32)
    for start in range(share * COLUMNS, num, SHARES * COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        in_c = c < num
        at = first + c.to(tl.int64) * (2 * G * D)
        k = tl.load(at[None, :] + d[:, None], mask=in_c[None, :] & (d < D)[:, None], other=0.0)
        v = tl.load(
            at[:, None] + G * D + d[None, :], mask=in_c[:, None] & (d < D)[None, :], other=0.0
        )
        if UPCAST:
            k = k.to(tl.float32)
            v = v.to(tl.float32)
        z = tl.dot(q, k, input_precision="ieee") * scale
        if HAS_SEEN:
            in_c = in_c & (tl.load(seen + n * seen_n + c, mask=in_c, other=0) != 0)
        z = tl.where(in_c[None, :], z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, axis=1))
        # A block of which nothing is seen has nothing to shift by.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        p = tl.exp(z - base[:, None])
        fade = tl.exp(top - base)
        total = total * fade + tl.sum(p, axis=1)
        if not UPCAST:
            p = p.to(v.dtype)
        acc = acc * fade[:, None] + tl.dot(p, v, input_precision="ieee")
        top = higher
    if SHARES == 1:
        acc = acc / total[:, None]
        to = out + (n * G * group + h[:, None]) * D + d[None, :]
        tl.store(to, acc.to(out.dtype.element_ty), mask=in_q)
    else:
        row = (share * tl.num_programs(0) + n) * G * group + h
        to = partial + row[:, None] * (D + 2) + d[None, :]
        tl.store(to, acc, mask=in_q)
        tl.store(partial + row * (D + 2) + D, top, mask=inside < group)
        tl.store(partial + row * (D + 2) + D + 1, total, mask=inside < group)


@triton.jit
def combine_kernel(partial, out, D, SHARES: tl.constexpr, WIDTH: tl.constexpr):
    """The shares of one head of one text together."""
    row = tl.program_id(0).to(tl.int64)
    share = tl.arange(0, SHARES)
    d = tl.arange(0, WIDTH)
    at = partial + (share * tl.num_programs(0) + row) * (D + 2)
    top = tl.load(at + D)
    weight = tl.exp(top - tl.max(top, axis=0))
    total = tl.sum(weight * tl.load(at + D + 1), axis=0)
    acc = tl.load(at[:, None] + d[None, :], mask=(d < D)[None, :], other=0.0)
    found = tl.sum(acc * weight[:, None], axis=0) / total
    tl.store(out + row * D + d, found.to(out.dtype.element_ty), mask=d < D)


@triton.jit
def gated_kernel(gate_up, out, size, BLOCK: tl.constexpr):
    r = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    in_i = i < size
    gate = tl.load(gate_up + r * 2 * size + i, mask=in_i, other=0.0).to(tl.float32)
    up = tl.load(gate_up + r * 2 * size + size + i, mask=in_i, other=0.0).to(tl.float32)
    # The activation alone is rounded first, as it is where it is an operation of its own.
    active = (gate / (1.0 + tl.exp(-gate))).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + r * size + i, (active * up).to(out.dtype.element_ty), mask=in_i)


def turn_and_store(qkv_NXD: Tensor, turns: Tensor, rows: Rows, kept: Tensor, H: int) -> None:
    """Turn queries in place, and put keys and values into the cache at each row's column.

    `qkv_NXD` [N, H + 2 G, D] contiguous, two numbers of a pair side by side; `turns` float32
    [positions, D / 2, 2], cosine and sine; `kept` [jobs, C, 2 G, D] contiguous.
    """
    N, X, D = qkv_NXD.shape
    turn_and_store_kernel[(N, triton.cdiv(X, HEADS))](
        qkv_NXD,
        turns,
        rows.job,
        rows.column,
        rows.position,
        kept,
        len(turns),
        H,
        (X - H) // 2,
        D,
        qkv_NXD.stride(0),
        kept.stride(0),
        HEADS,
        triton.next_power_of_2(D // 2),
        num_warps=4,
    )


def attention(qkv_NXD: Tensor, rows: Rows, kept: Tensor, H: int) -> Tensor:
    """Attention of each row over the columns that it sees, one at least, [N, H * D]."""
    N, X, D = qkv_NXD.shape
    G = (X - H) // 2
    group, width = H // G, max(16, int(triton.next_power_of_2(D)))
    device = qkv_NXD.device
    shares = num_shares(N * G, kept.shape[1], device)
    out = torch.empty((N, H * D), dtype=qkv_NXD.dtype, device=device)
    size = shares * N * H * (D + 2) if shares > 1 else 1
    partial = torch.empty((size,), dtype=torch.float32, device=device)
    attention_kernel[(N, G, shares)](
        qkv_NXD,
        kept,
        rows.job,
        rows.end,
        rows.seen,
        out,
        partial,
        G,
        D,
        group,
        D**-0.5,
        qkv_NXD.stride(0),
        kept.stride(0),
        0 if rows.seen is None else rows.seen.stride(0),
        rows.seen is not None,
        shares,
        max(16, int(triton.next_power_of_2(group))),
        COLUMNS,
        width,
        is_interpreted(),
        num_warps=4,
        num_stages=2,
    )
    if shares > 1:
        combine_kernel[(N * H,)](partial, out, D, shares, width, num_warps=2)
    return out


def num_shares(programs: int, num_columns: int, device: torch.device) -> int:
    """Shares of a text's columns, a power of two: enough programs for all processors."""
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 4
    )
    wanted = min(processors // programs, triton.cdiv(num_columns, COLUMNS), MOST_SHARES)
    return 1 << max(0, int(wanted).bit_length() - 1)


def gated(gate_up_RI: Tensor) -> Tensor:
    """silu(gate) * up of [R, 2 I], gates first, contiguous."""
    R, size = gate_up_RI.shape[0], gate_up_RI.shape[1] // 2
    out = torch.empty((R, size), dtype=gate_up_RI.dtype, device=gate_up_RI.device)
    gated_kernel[(R, triton.cdiv(size, BLOCK))](gate_up_RI, out, size, BLOCK, num_warps=4)
    return out
