"""The acceptance rules for drafts that were drawn with fresh noise, on the GPU (see reference).

`chain` finds the first rejected draft from the shares of `verify_draft` and then reads one row of
each model for the residual. `siblings` reads the row once a draft.

Shapes: N texts, K drafts, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.device_noise import RESIDUAL_SALT, TEST_SALT, gumbel, mix, stream, uniform
from kernels.reference import Verified
from kernels.verify_draft import BLOCK, Shares, merged, unwritten


@triton.jit
def chain_kernel(
    logits,
    draft_logits,
    partial,
    draft_partial,
    draft,
    heat,
    seeds,
    positions,
    accepted,
    p_shift,
    q_shift,
    K,
    num_rows,
    num_draft_rows,
    num_shares,
    l_n,
    l_q,
    l_v,
    d_n,
    d_q,
    d_v,
    SHARES: tl.constexpr,
):
    """One text: the drafts that stand, and by what exp turns logits at the next place to p and q.

    p_shift[n] and q_shift[n] are base / heat + log sum there; q_shift is infinite after a whole
    draft, so that q is 0 and the residual is p.
    """
    n = tl.program_id(0).to(tl.int64)
    scale = 1.0 / tl.load(heat + n)
    seed = mix(tl.load(seeds + n) ^ TEST_SALT)
    position = tl.load(positions + n)
    num = 0
    stands = 1
    for k in range(K):
        base, plain, log_heated, best_z, best_v = merged(
            partial, n * (K + 1) + k, num_rows, num_shares, scale, SHARES
        )
        d_base, d_plain, d_heated, d_best_z, d_best_v = merged(
            draft_partial, n * K + k, num_draft_rows, num_shares, scale, SHARES
        )
        x = tl.load(draft + n * K + k)
        z = tl.load(logits + n * l_n + k * l_q + x * l_v).to(tl.float32)
        d = tl.load(draft_logits + n * d_n + k * d_q + x * d_v).to(tl.float32)
        p = tl.exp((z - base) * scale - log_heated)
        q = tl.exp((d - d_base) * scale - d_heated)
        u = uniform(stream(seed, position + k), tl.zeros((), tl.int64))
        stands = tl.where(u * q.to(tl.float64) < p.to(tl.float64), stands, 0)
        num += stands
    tl.store(accepted + n, num.to(tl.int64))
    base, plain, log_heated, best_z, best_v = merged(
        partial, n * (K + 1) + num, num_rows, num_shares, scale, SHARES
    )
    tl.store(p_shift + 2 * n, base)
    tl.store(p_shift + 2 * n + 1, log_heated)
    if num < K:
        base, plain, log_heated, best_z, best_v = merged(
            draft_partial, n * K + num, num_draft_rows, num_shares, scale, SHARES
        )
        tl.store(q_shift + 2 * n, base)
        tl.store(q_shift + 2 * n + 1, log_heated)
    else:
        tl.store(q_shift + 2 * n, 0.0)
        tl.store(q_shift + 2 * n + 1, float("inf"))


@triton.jit
def residual_kernel(
    logits,
    draft_logits,
    accepted,
    heat,
    seeds,
    positions,
    p_shift,
    q_shift,
    partial,
    V,
    per_share,
    N,
    K,
    l_n,
    l_q,
    l_v,
    d_n,
    d_q,
    d_v,
    BLOCK: tl.constexpr,
):
    """partial[share, 0..3, n]: best of log relu(p - q) + noise and its token; the same of p."""
    n = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    num = tl.load(accepted + n)
    scale = 1.0 / tl.load(heat + n)
    at = stream(mix(tl.load(seeds + n) ^ RESIDUAL_SALT), tl.load(positions + n) + num)
    p_base, p_log = tl.load(p_shift + 2 * n), tl.load(p_shift + 2 * n + 1)
    q_base, q_log = tl.load(q_shift + 2 * n), tl.load(q_shift + 2 * n + 1)
    best, best_p = float("-inf"), float("-inf")
    best_v, best_p_v = 0, 0
    place_q = tl.minimum(num, K - 1)
    end = tl.minimum((share + 1) * per_share, V)
    for start in range(share * per_share, end, BLOCK):
        v = (start + tl.arange(0, BLOCK)).to(tl.int64)
        in_v = v < end
        z = tl.load(logits + n * l_n + num * l_q + v * l_v, mask=in_v, other=float("-inf"))
        log_p = (z.to(tl.float32) - p_base) * scale - p_log
        d = tl.load(
            draft_logits + n * d_n + place_q * d_q + v * d_v,
            mask=in_v & (num < K),
            other=float("-inf"),
        )
        q = tl.exp((d.to(tl.float32) - q_base) * scale - q_log)
        left = tl.maximum(tl.exp(log_p) - q, 0.0)
        noise = gumbel(at, v)
        value = tl.where(left > 0, tl.log(tl.where(left > 0, left, 1.0)) + noise, float("-inf"))
        here, place = tl.max(value, axis=0, return_indices=True)
        if here > best:
            best = here
            best_v = start + place
        here, place = tl.max(log_p + noise, axis=0, return_indices=True)
        if here > best_p:
            best_p = here
            best_p_v = start + place
    out = partial + share * 4 * N + n
    tl.store(out, best)
    tl.store(out + N, best_v.to(tl.float32))
    tl.store(out + 2 * N, best_p)
    tl.store(out + 3 * N, best_p_v.to(tl.float32))


@triton.jit
def written_kernel(
    logits,
    partial,
    residual,
    draft,
    accepted,
    heat,
    tokens,
    logprob,
    law_logprob,
    N,
    K,
    num_rows,
    num_shares,
    l_n,
    l_q,
    l_v,
    SHARES: tl.constexpr,
):
    """One text: accepted drafts, the last token, -1 behind; log-probabilities of each."""
    n = tl.program_id(0).to(tl.int64)
    num = tl.load(accepted + n)
    scale = 1.0 / tl.load(heat + n)
    share = tl.arange(0, SHARES)
    is_in = share < num_shares
    at = residual + share * 4 * N + n
    best, which = tl.max(tl.load(at, mask=is_in, other=float("-inf")), axis=0, return_indices=True)
    best_p, which_p = tl.max(
        tl.load(at + 2 * N, mask=is_in, other=float("-inf")), axis=0, return_indices=True
    )
    last = tl.load(residual + (which * 4 + 1) * N + n)
    last_p = tl.load(residual + (which_p * 4 + 3) * N + n)
    last = tl.where(best > float("-inf"), last, last_p).to(tl.int64)
    for q in range(K + 1):
        row = n * (K + 1) + q
        x = last
        if q < num:
            x = tl.load(draft + n * K + q)
        base, log_total, log_heated, best_z, best_v = merged(
            partial, row, num_rows, num_shares, scale, SHARES
        )
        z = tl.load(logits + n * l_n + q * l_q + x * l_v).to(tl.float32)
        is_written = q <= num
        tl.store(tokens + row, tl.where(is_written, x, -1))
        tl.store(logprob + row, tl.where(is_written, z - base - log_total, 0.0))
        tl.store(law_logprob + row, tl.where(is_written, (z - base) * scale - log_heated, 0.0))


@triton.jit
def siblings_kernel(
    logits,
    draft_logits,
    partial,
    draft_partial,
    draft,
    heat,
    seeds,
    positions,
    tokens,
    accepted,
    logprob,
    law_logprob,
    V,
    N,
    num_shares,
    l_n,
    l_v,
    d_n,
    d_v,
    K: tl.constexpr,
    SHARES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One text: its siblings in order.

    After j rejections p and q at any token follow from the first ones and 2 j numbers: what was
    left of p each time, and what q held apart from the rejected. So nothing of width V is kept.
    """
    n = tl.program_id(0).to(tl.int64)
    scale = 1.0 / tl.load(heat + n)
    position = tl.load(positions + n)
    test = stream(mix(tl.load(seeds + n) ^ TEST_SALT), position)
    base, log_total, log_heated, best_z, best_v = merged(partial, n, N, num_shares, scale, SHARES)
    d_base, d_plain, d_heated, d_best_z, d_best_v = merged(
        draft_partial, n, N, num_shares, scale, SHARES
    )
    slot = tl.arange(0, SHARES)
    left_j = tl.full((SHARES,), 1.0, dtype=tl.float32)
    is_empty_j = tl.zeros((SHARES,), dtype=tl.int32)
    rest_j = tl.full((SHARES,), 1.0, dtype=tl.float32)
    token_j = tl.full((SHARES,), -1, dtype=tl.int64)
    taken = tl.full((), -1, tl.int64)
    for k in tl.static_range(K):
        x = tl.load(draft + n * K + k)
        # The chance of x under both, after the rejections so far.
        p = tl.exp((tl.load(logits + n * l_n + x * l_v).to(tl.float32) - base) * scale - log_heated)
        q = tl.exp(
            (tl.load(draft_logits + n * d_n + x * d_v).to(tl.float32) - d_base) * scale - d_heated
        )
        for j in tl.static_range(k):
            is_j = slot == j
            is_empty = tl.sum(tl.where(is_j, is_empty_j, 0), axis=0)
            less = tl.maximum(p - q, 0.0)
            p = tl.where(is_empty > 0, p, less) / tl.sum(tl.where(is_j, left_j, 0.0), axis=0)
            q = tl.where(x == tl.sum(tl.where(is_j, token_j, 0), axis=0), 0.0, q)
            q = q / tl.sum(tl.where(is_j, rest_j, 0.0), axis=0)
        u = uniform(test, tl.zeros((), tl.int64) + k)
        is_taken = (taken < 0) & (u * q.to(tl.float64) < p.to(tl.float64))
        taken = tl.where(is_taken, x, taken)
        # What is left of p, and of q, for the next.
        sum_left, sum_p, sum_rest = 0.0, 0.0, 0.0
        for start in range(0, V, BLOCK):
            v = (start + tl.arange(0, BLOCK)).to(tl.int64)
            p_v, q_v = _stage(
                logits,
                draft_logits,
                n,
                v,
                V,
                l_n,
                l_v,
                d_n,
                d_v,
                scale,
                base,
                log_heated,
                d_base,
                d_heated,
                slot,
                left_j,
                is_empty_j,
                rest_j,
                token_j,
                k,
            )
            sum_left += tl.sum(tl.maximum(p_v - q_v, 0.0), axis=0)
            sum_p += tl.sum(p_v, axis=0)
            sum_rest += tl.sum(tl.where(v == x, 0.0, q_v), axis=0)
        is_k = slot == k
        is_empty = sum_left <= 0
        left_j = tl.where(is_k, tl.where(is_empty, sum_p, sum_left), left_j)
        is_empty_j = tl.where(is_k, tl.where(is_empty, 1, 0), is_empty_j)
        rest_j = tl.where(is_k, tl.maximum(sum_rest, 1e-30), rest_j)
        token_j = tl.where(is_k, x, token_j)
    at = stream(mix(tl.load(seeds + n) ^ RESIDUAL_SALT), position)
    best = float("-inf")
    last = tl.zeros((), tl.int64)
    for start in range(0, V, BLOCK):
        v = (start + tl.arange(0, BLOCK)).to(tl.int64)
        p_v, q_v = _stage(
            logits,
            draft_logits,
            n,
            v,
            V,
            l_n,
            l_v,
            d_n,
            d_v,
            scale,
            base,
            log_heated,
            d_base,
            d_heated,
            slot,
            left_j,
            is_empty_j,
            rest_j,
            token_j,
            K,
        )
        value = tl.where(
            p_v > 0, tl.log(tl.where(p_v > 0, p_v, 1.0)) + gumbel(at, v), float("-inf")
        )
        here, place = tl.max(value, axis=0, return_indices=True)
        if here > best:
            best = here
            last = (start + place).to(tl.int64)
    x = tl.where(taken >= 0, taken, last)
    z = tl.load(logits + n * l_n + x * l_v).to(tl.float32)
    tl.store(tokens + n, x)
    tl.store(accepted + n, (taken >= 0).to(tl.int64))
    tl.store(logprob + n, z - base - log_total)
    tl.store(law_logprob + n, (z - base) * scale - log_heated)


@triton.jit
def _stage(
    logits,
    draft_logits,
    n,
    v,
    V,
    l_n,
    l_v,
    d_n,
    d_v,
    scale,
    base,
    log_heated,
    d_base,
    d_heated,
    slot,
    left_j,
    is_empty_j,
    rest_j,
    token_j,
    num: tl.constexpr,
):
    """p and q of some tokens after `num` rejections; 0 beyond the vocabulary."""
    in_v = v < V
    z = tl.load(logits + n * l_n + v * l_v, mask=in_v, other=float("-inf")).to(tl.float32)
    d = tl.load(draft_logits + n * d_n + v * d_v, mask=in_v, other=float("-inf")).to(tl.float32)
    p = tl.exp((z - base) * scale - log_heated)
    q = tl.exp((d - d_base) * scale - d_heated)
    for j in tl.static_range(num):
        is_j = slot == j
        is_empty = tl.sum(tl.where(is_j, is_empty_j, 0), axis=0)
        p = tl.where(is_empty > 0, p, tl.maximum(p - q, 0.0))
        p = p / tl.sum(tl.where(is_j, left_j, 0.0), axis=0)
        q = tl.where(v == tl.sum(tl.where(is_j, token_j, 0), axis=0), 0.0, q)
        q = q / tl.sum(tl.where(is_j, rest_j, 0.0), axis=0)
    return p, q


def chain(
    logits_NQV: Tensor,
    draft_logits_NKV: Tensor,
    draft_NK: Tensor,
    heat_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    N, Q, V = logits_NQV.shape
    K, device = Q - 1, logits_NQV.device
    shares = Shares(N * Q, V, device)
    partial = shares.of(logits_NQV, heat_N, seeds_N, positions_N, False)
    draft_partial = shares.of(draft_logits_NKV, heat_N, seeds_N, positions_N, False)
    out = unwritten(N, Q, device)
    draft_NK = draft_NK.contiguous()
    p_shift, q_shift = torch.empty((2, N, 2), dtype=torch.float32, device=device)
    chain_kernel[(N,)](
        logits_NQV,
        draft_logits_NKV,
        partial,
        draft_partial,
        draft_NK,
        heat_N,
        seeds_N,
        positions_N,
        out.num_accepted,
        p_shift,
        q_shift,
        K,
        N * Q,
        N * K,
        shares.num,
        *logits_NQV.stride(),
        *draft_logits_NKV.stride(),
        shares.padded,
        num_warps=1,
    )
    residual = torch.empty((shares.num, 4, N), dtype=torch.float32, device=device)
    residual_kernel[(N, shares.num)](
        logits_NQV,
        draft_logits_NKV,
        out.num_accepted,
        heat_N,
        seeds_N,
        positions_N,
        p_shift,
        q_shift,
        residual,
        V,
        shares.per_share,
        N,
        K,
        *logits_NQV.stride(),
        *draft_logits_NKV.stride(),
        BLOCK,
        num_warps=4,
    )
    written_kernel[(N,)](
        logits_NQV,
        partial,
        residual,
        draft_NK,
        out.num_accepted,
        heat_N,
        out.tokens,
        out.logprob,
        out.law_logprob,
        N,
        K,
        N * Q,
        shares.num,
        *logits_NQV.stride(),
        shares.padded,
        num_warps=1,
    )
    return out


def siblings(
    logits_NV: Tensor,
    draft_logits_NV: Tensor,
    draft_NK: Tensor,
    heat_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    N, V = logits_NV.shape
    shares = Shares(N, V, logits_NV.device)
    partial = shares.of(logits_NV[:, None], heat_N, seeds_N, positions_N, False)
    draft_partial = shares.of(draft_logits_NV[:, None], heat_N, seeds_N, positions_N, False)
    out = unwritten(N, 1, logits_NV.device)
    siblings_kernel[(N,)](
        logits_NV,
        draft_logits_NV,
        partial,
        draft_partial,
        draft_NK.contiguous(),
        heat_N,
        seeds_N,
        positions_N,
        *out,
        V,
        N,
        shares.num,
        *logits_NV.stride(),
        *draft_logits_NV.stride(),
        draft_NK.shape[1],
        shares.padded,
        BLOCK,
        num_warps=8,
    )
    return out
