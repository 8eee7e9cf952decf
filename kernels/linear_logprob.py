"""linear_logprob on the GPU: logits are made in tiles, reduced in registers and never stored.

Forward: a program takes a tile of rows and a share of the vocabulary, multiplies tile by tile and
keeps for each row the running maximum m, s = sum exp(z - m) and the target's logit;
`combine_kernel` merges the shares. Then logsumexp = m + log s. Programs are ordered so that those
at work together share rows and vocabulary in the L2 cache. Backward: for a slice of the vocabulary
at a time a second kernel makes the gradient with respect to the logits, and two plain products
carry it on (chunking: Wijmans et al., "Cut your losses in large-vocabulary language models", arXiv
2411.09009; Hsu et al., Liger Kernel, arXiv 2410.10989). Memory: O(rows) and one slice.

Shapes: R rows of hidden states, M rows wanted, E hidden width, V vocabulary.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

SLICE = 1 << 26
"""Numbers of a slice of the gradient with respect to the logits."""


class Tiles(NamedTuple):
    """Sizes of a program's work; a shape that was compiled and looked at (kernels.aot)."""

    rows: int
    words: int
    width: int
    num_warps: int
    num_stages: int


NARROW = Tiles(16, 128, 128, 4, 3)
WIDE = Tiles(128, 128, 64, 8, 3)
NARROW_FULL = Tiles(16, 64, 64, 4, 2)
FULL = Tiles(64, 64, 32, 8, 2)
GROUP = 16
"""Tiles of rows that are at work together."""


def tiles_for(num_rows: int, dtype: torch.dtype) -> Tiles:
    if dtype == torch.float32:
        return NARROW_FULL if num_rows <= 16 else FULL
    return NARROW if num_rows <= 16 else WIDE


@triton.jit
def _logit_tile(
    hidden,
    weight,
    row,
    in_m,
    word,
    in_v,
    E,
    stride_hr,
    stride_he,
    stride_wv,
    stride_we,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    WIDTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """hidden[row] @ weight[word].T in float32, [ROWS, WORDS]."""
    acc = tl.zeros((ROWS, WORDS), dtype=tl.float32)
    along = tl.arange(0, WIDTH)
    at_h = hidden + row[:, None] * stride_hr + along[None, :] * stride_he
    at_w = weight + word[None, :] * stride_wv + along[:, None] * stride_we
    for e in range(0, E, WIDTH):
        in_e = along < E - e
        h = tl.load(at_h, mask=in_m[:, None] & in_e[None, :], other=0.0)
        w = tl.load(at_w, mask=in_e[:, None] & in_v[None, :], other=0.0)
        if UPCAST:
            h = h.to(tl.float32)
            w = w.to(tl.float32)
        acc = tl.dot(h, w, acc, input_precision="ieee")
        at_h += WIDTH * stride_he
        at_w += WIDTH * stride_we
    return acc


@triton.jit
def forward_kernel(
    hidden,
    weight,
    rows,
    target,
    partial,
    M,
    V,
    E,
    stride_hr,
    stride_he,
    stride_wv,
    stride_we,
    num_shares,
    tiles_per_share,
    HAS_ROWS: tl.constexpr,
    UPCAST: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """partial[share, 0..2, m]: maximum, sum, target's logit."""
    pid = tl.program_id(0)
    num_m = tl.cdiv(M, ROWS)
    first = pid // (GROUP * num_shares) * GROUP
    group = tl.minimum(num_m - first, GROUP)
    inside = pid % (GROUP * num_shares)
    pid_m = first + inside % group
    share = inside // group
    m_ix = pid_m * ROWS + tl.arange(0, ROWS)
    in_m = m_ix < M
    row = m_ix.to(tl.int64)
    if HAS_ROWS:
        row = tl.load(rows + m_ix, mask=in_m, other=0).to(tl.int64)
    wanted = tl.load(target + m_ix, mask=in_m, other=-1).to(tl.int32)
    top = tl.full((ROWS,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    found = tl.zeros((ROWS,), dtype=tl.float32)
    last = tl.minimum((share + 1) * tiles_per_share, tl.cdiv(V, WORDS))
    for tile in range(share * tiles_per_share, last):
        word = tile * WORDS + tl.arange(0, WORDS)
        in_v = word < V
        z = _logit_tile(
            hidden,
            weight,
            row,
            in_m,
            word.to(tl.int64),
            in_v,
            E,
            stride_hr,
            stride_he,
            stride_wv,
            stride_we,
            ROWS,
            WORDS,
            WIDTH,
            UPCAST,
        )
        found += tl.sum(tl.where(word[None, :] == wanted[:, None], z, 0.0), axis=1)
        z = tl.where(in_v[None, :], z, float("-inf"))
        higher = tl.maximum(top, tl.max(z, axis=1))
        # A row whose logits are all minus infinity so far has nothing to shift by.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = tl.exp(top - base) * total
        total += tl.sum(tl.exp(z - base[:, None]), axis=1)
        top = higher
    at = partial + share * 3 * M + m_ix
    tl.store(at, top, mask=in_m)
    tl.store(at + M, total, mask=in_m)
    tl.store(at + 2 * M, found, mask=in_m)


@triton.jit
def combine_kernel(partial, target, out, M, num_shares, BLOCK: tl.constexpr):
    """The shares of a row together; out[0..2, m]: logprob, 0 in ignored rows, and the logsumexp in
    its two parts, maximum and log of the sum."""
    m_ix = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_m = m_ix < M
    top = tl.full((BLOCK,), float("-inf"), dtype=tl.float32)
    for share in range(num_shares):
        here = tl.load(partial + share * 3 * M + m_ix, mask=in_m, other=0.0)
        top = tl.maximum(top, here)
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    found = tl.zeros((BLOCK,), dtype=tl.float32)
    for share in range(num_shares):
        at = partial + share * 3 * M + m_ix
        here = tl.load(at, mask=in_m, other=0.0)
        s = tl.load(at + M, mask=in_m, other=1.0)
        total += tl.where(here == float("-inf"), 0.0, tl.exp(here - base)) * s
        found += tl.load(at + 2 * M, mask=in_m, other=0.0)
    is_counted = tl.load(target + m_ix, mask=in_m, other=-1) >= 0
    log_total = tl.log(total)
    tl.store(out + m_ix, tl.where(is_counted, found - base - log_total, 0.0), mask=in_m)
    tl.store(out + M + m_ix, base, mask=in_m)
    tl.store(out + 2 * M + m_ix, log_total, mask=in_m)


@triton.jit
def gradient_kernel(
    hidden,
    weight,
    rows,
    target,
    found,
    by_logprob,
    out,
    M,
    V,
    E,
    start,
    size,
    stride_hr,
    stride_he,
    stride_wv,
    stride_we,
    HAS_ROWS: tl.constexpr,
    UPCAST: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """out[m, v - start] = d loss / d (hidden @ weight.T)[m, v], for v in [start, start + size)."""
    pid = tl.program_id(0)
    num_m = tl.cdiv(M, ROWS)
    num_v = tl.cdiv(size, WORDS)
    first = pid // (GROUP * num_v) * GROUP
    group = tl.minimum(num_m - first, GROUP)
    inside = pid % (GROUP * num_v)
    m_ix = (first + inside % group) * ROWS + tl.arange(0, ROWS)
    here = inside // group * WORDS + tl.arange(0, WORDS)
    in_m = m_ix < M
    word = start + here
    in_v = (here < size) & (word < V)
    row = m_ix.to(tl.int64)
    if HAS_ROWS:
        row = tl.load(rows + m_ix, mask=in_m, other=0).to(tl.int64)
    z = _logit_tile(
        hidden,
        weight,
        row,
        in_m,
        word.to(tl.int64),
        in_v,
        E,
        stride_hr,
        stride_he,
        stride_wv,
        stride_we,
        ROWS,
        WORDS,
        WIDTH,
        UPCAST,
    )
    # Two steps: the maximum is as large as the logits, and their sum would be rounded like them.
    z -= tl.load(found + M + m_ix, mask=in_m, other=0.0)[:, None]
    z -= tl.load(found + 2 * M + m_ix, mask=in_m, other=0.0)[:, None]
    wanted = tl.load(target + m_ix, mask=in_m, other=-1)
    is_counted = wanted >= 0
    by_p = tl.load(by_logprob + m_ix, mask=in_m, other=0.0)
    d = tl.exp(z) * -by_p[:, None]
    d = tl.where(word[None, :] == wanted[:, None], d + by_p[:, None], d)
    d = tl.where(is_counted[:, None], d, 0.0)
    at = out + m_ix.to(tl.int64)[:, None] * size + here[None, :]
    tl.store(at, d.to(out.dtype.element_ty), mask=in_m[:, None] & (here < size)[None, :])


class FusedLinearLogprob(torch.autograd.Function):
    """As chunked.ChunkedLinearLogprob, and with the list of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RE: Tensor,
        weight_VE: Tensor,
        target_M: Tensor,
        rows_M: Tensor | None,
        upcast: bool,
    ) -> Tensor:
        M, (V, E) = len(target_M), weight_VE.shape
        tiles = tiles_for(M, hidden_RE.dtype)
        num_m, num_v = triton.cdiv(M, tiles.rows), triton.cdiv(V, tiles.words)
        num_shares = min(num_v, _shares(hidden_RE.device, num_m))
        per_share = triton.cdiv(num_v, num_shares)
        num_shares = triton.cdiv(num_v, per_share)
        device = hidden_RE.device
        partial = torch.empty((num_shares, 3, M), dtype=torch.float32, device=device)
        found = torch.empty((3, M), dtype=torch.float32, device=device)
        forward_kernel[(num_m * num_shares,)](
            hidden_RE,
            weight_VE,
            rows_M,
            target_M,
            partial,
            M,
            V,
            E,
            *hidden_RE.stride(),
            *weight_VE.stride(),
            num_shares,
            per_share,
            rows_M is not None,
            upcast,
            GROUP,
            tiles.rows,
            tiles.words,
            tiles.width,
            num_warps=tiles.num_warps,
            num_stages=tiles.num_stages,
        )
        combine_kernel[(triton.cdiv(M, 128),)](partial, target_M, found, M, num_shares, 128)
        ctx.save_for_backward(hidden_RE, weight_VE, target_M, rows_M, found)
        ctx.upcast = upcast
        return found[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_RE, weight_VE, target_M, rows_M, found = ctx.saved_tensors
        M, (V, E) = len(target_M), weight_VE.shape
        # The gradient may come as an expanded scalar: the kernel reads it as it lies.
        by_logprob = grads[0].float().contiguous()
        tiles = tiles_for(M, hidden_RE.dtype)
        size = min(V, max(tiles.words, SLICE // M // tiles.words * tiles.words))
        slice_MC = torch.empty((M, size), dtype=hidden_RE.dtype, device=hidden_RE.device)
        wants = ctx.needs_input_grad
        hidden_ME = hidden_RE if rows_M is None else hidden_RE[rows_M]
        d_hidden = torch.zeros((M, E), dtype=torch.float32, device=hidden_RE.device)
        d_weight = torch.empty_like(weight_VE) if wants[1] else None
        for start in range(0, V, size):
            end = min(start + size, V)
            grid = (triton.cdiv(M, tiles.rows) * triton.cdiv(size, tiles.words),)
            gradient_kernel[grid](
                hidden_RE,
                weight_VE,
                rows_M,
                target_M,
                found,
                by_logprob,
                slice_MC,
                M,
                V,
                E,
                start,
                size,
                *hidden_RE.stride(),
                *weight_VE.stride(),
                rows_M is not None,
                ctx.upcast,
                GROUP,
                tiles.rows,
                tiles.words,
                tiles.width,
                num_warps=tiles.num_warps,
                num_stages=tiles.num_stages,
            )
            part_MC = slice_MC[:, : end - start]
            if wants[0]:
                d_hidden += _product(part_MC, weight_VE[start:end])
            if d_weight is not None:
                d_weight[start:end] = _product(part_MC.t(), hidden_ME).to(d_weight.dtype)
        if not wants[0]:
            d_hidden_RE = None
        elif rows_M is None:
            d_hidden_RE = d_hidden.to(hidden_RE.dtype)
        else:
            whole = torch.zeros(hidden_RE.shape, dtype=torch.float32, device=hidden_RE.device)
            d_hidden_RE = whole.index_add_(0, rows_M, d_hidden).to(hidden_RE.dtype)
        return d_hidden_RE, d_weight, None, None, None


def _shares(device: torch.device, num_m: int) -> int:
    """Parts of the vocabulary: as many as keep the device busy twice over."""
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 2
    )
    wanted = 2 * processors / num_m if num_m < GROUP else processors / GROUP
    return max(1, math.ceil(wanted))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b with a float32 result."""
    if a.dtype == torch.float32 or a.device.type == "cpu":
        return a.float() @ b.float()
    return torch.mm(a, b, out_dtype=torch.float32)
