"""Verification of drafts on the GPU, straight from logits: no distribution is ever written out.

The target's own choice argmax(log p + noise) at each place, and how many drafts agree. A row of
logits is read by several programs, each its share; running maxima keep the numbers small, so that
logits in the tens of thousands lose nothing.

Shapes: N texts, Q = K + 1 places, K drafts, V vocabulary.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.device_noise import gumbel, stream
from kernels.reference import Verified

BLOCK = 1024
FIELDS = tl.constexpr(6)
"""Of a share of a row: maximum, sum, processed sum, best, its logit, its token."""


@triton.jit
def share_kernel(
    logits,
    temperature,
    seeds,
    positions,
    partial,
    V,
    per_share,
    num_rows,
    Q,
    l_n,
    l_q,
    l_v,
    BLOCK: tl.constexpr,
):
    """partial[share, field, row] of one share of one row."""
    row = tl.program_id(0)
    share = tl.program_id(1)
    n = (row // Q).to(tl.int64)
    q = row % Q
    t = tl.load(temperature + n)
    scale = tl.where(t > 0, 1.0 / tl.maximum(t, 1e-6), 1.0)
    loud = tl.where(t > 0, 1.0, 0.0)
    at = stream(tl.load(seeds + n), tl.load(positions + n) + q)
    top = float("-inf")
    total = 0.0
    processed = 0.0
    best = float("-inf")
    best_z = 0.0
    best_v = 0
    end = tl.minimum((share + 1) * per_share, V)
    for start in range(share * per_share, end, BLOCK):
        v = start + tl.arange(0, BLOCK)
        in_v = v < end
        z = tl.load(
            logits + n * l_n + q * l_q + v.to(tl.int64) * l_v, mask=in_v, other=float("-inf")
        ).to(tl.float32)
        higher = tl.maximum(top, tl.max(z, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        is_first = top == float("-inf")
        total = tl.where(is_first, 0.0, total * tl.exp(top - base))
        processed = tl.where(is_first, 0.0, processed * tl.exp((top - base) * scale))
        best = tl.where(is_first, float("-inf"), best + (top - base) * scale)
        total += tl.sum(tl.exp(z - base), axis=0)
        value = (z - base) * scale
        processed += tl.sum(tl.exp(value), axis=0)
        value += loud * gumbel(at, v.to(tl.int64))
        here, place = tl.max(value, axis=0, return_indices=True)
        if here > best:
            best = here
            best_v = start + place
            best_z = tl.sum(tl.where(v == best_v, z, 0.0), axis=0)
        top = higher
    out = partial + share * FIELDS * num_rows + row
    tl.store(out, top)
    tl.store(out + num_rows, total)
    tl.store(out + 2 * num_rows, processed)
    tl.store(out + 3 * num_rows, best)
    tl.store(out + 4 * num_rows, best_z)
    tl.store(out + 5 * num_rows, best_v.to(tl.float32))


@triton.jit
def merged(partial, row, num_rows, num_shares, scale, SHARES: tl.constexpr):
    """(maximum, log sum, processed log sum, best logit, best token) of a row."""
    share = tl.arange(0, SHARES)
    is_in = share < num_shares
    at = partial + share * FIELDS * num_rows + row
    top = tl.load(at, mask=is_in, other=float("-inf"))
    highest = tl.max(top, axis=0)
    base = tl.where(highest == float("-inf"), 0.0, highest)
    is_some = is_in & (top != float("-inf"))
    gap = tl.where(is_some, top - base, 0.0)
    total = tl.load(at + num_rows, mask=is_some, other=0.0) * tl.exp(gap)
    processed = tl.load(at + 2 * num_rows, mask=is_some, other=0.0) * tl.exp(gap * scale)
    best = tl.load(at + 3 * num_rows, mask=is_some, other=float("-inf")) + gap * scale
    _, which = tl.max(best, axis=0, return_indices=True)
    z = tl.load(partial + (which * FIELDS + 4) * num_rows + row)
    v = tl.load(partial + (which * FIELDS + 5) * num_rows + row).to(tl.int64)
    return (base, tl.log(tl.sum(total, axis=0)), tl.log(tl.sum(processed, axis=0)), z, v)


@triton.jit
def coupled_kernel(
    partial,
    draft,
    temperature,
    tokens,
    accepted,
    logprob,
    processed_logprob,
    Q,
    K,
    num_rows,
    num_shares,
    SHARES: tl.constexpr,
):
    """One text: its choices, and the drafts that agree up to the first that does not."""
    n = tl.program_id(0)
    t = tl.load(temperature + n)
    scale = tl.where(t > 0, 1.0 / tl.maximum(t, 1e-6), 1.0)
    num = 0
    agrees = 1
    for q in range(Q):
        row = n * Q + q
        base, log_total, log_scaled, z, v = merged(
            partial, row, num_rows, num_shares, scale, SHARES
        )
        tl.store(tokens + row, v)
        tl.store(logprob + row, z - base - log_total)
        log_p = tl.where(t > 0, (z - base) * scale - log_scaled, 0.0)
        tl.store(processed_logprob + row, log_p)
        if q < K:
            guess = tl.load(draft + n * K + q)
            agrees = tl.where(guess == v, agrees, 0)
            num += agrees
    tl.store(accepted + n, num.to(tl.int64))


def coupled(
    logits_NQV: Tensor,
    draft_NK: Tensor,
    temperature_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    N, Q, V = logits_NQV.shape
    device = logits_NQV.device
    per_share = _per_share(N * Q, V, device)
    num_shares = triton.cdiv(V, per_share)
    partial = torch.empty((num_shares, 6, N * Q), dtype=torch.float32, device=device)
    share_kernel[(N * Q, num_shares)](
        logits_NQV,
        temperature_N,
        seeds_N,
        positions_N,
        partial,
        V,
        per_share,
        N * Q,
        Q,
        *logits_NQV.stride(),
        BLOCK,
        num_warps=4,
    )
    out = Verified(
        torch.empty((N, Q), dtype=torch.int64, device=device),
        torch.empty(N, dtype=torch.int64, device=device),
        torch.empty((N, Q), dtype=torch.float32, device=device),
        torch.empty((N, Q), dtype=torch.float32, device=device),
    )
    coupled_kernel[(N,)](
        partial,
        draft_NK.contiguous(),
        temperature_N,
        *out,
        Q,
        draft_NK.shape[1],
        N * Q,
        num_shares,
        max(16, triton.next_power_of_2(num_shares)),
        num_warps=1,
    )
    return out


def _per_share(rows: int, V: int, device: torch.device) -> int:
    """Tokens of a row that one program reads: enough programs for all processors, 64 a row."""
    processors = (
        torch.cuda.get_device_properties(device).multi_processor_count
        if device.type == "cuda"
        else 2
    )
    blocks = triton.cdiv(V, BLOCK)
    wanted = max(1, min(blocks, 64, triton.cdiv(4 * processors, max(1, rows))))
    return int(triton.cdiv(blocks, wanted) * BLOCK)
