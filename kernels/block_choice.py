"""Choosing a token of a large vocabulary without making noise for each of its tokens.

The vocabulary is cut into blocks of `BLOCK` tokens. A block is chosen by the Gumbel-max trick over
the blocks' total log-probabilities, then a token of it by the same trick within: p(token) =
p(block) p(token | block), so the choice is an exact sample. Noise is a pure function of (seed,
position, block) and (seed, position, block, token), so the choice depends on seed and position
alone, and two models that share noise agree wherever their distributions do (Gumbel coupling;
Daliri, Musco, Suresh, arXiv 2408.07978). Of 49,152 tokens 832 get noise.

Shapes: R rows, K blocks, B tokens of a block, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.noise import PART, follow, gumbel
from kernels.reference import Verified

LARGE_VOCABULARY = 8192
"""Tokens of a vocabulary from which on this is how a token is chosen on a CPU."""
BLOCK = 64
PART_SIZE = 4 * PART
"""Logits looked at a time: they stay in a CPU's cache."""
NEVER = float("-inf")


def verify_draft(
    logits_NQV: Tensor,
    draft_NK: Tensor,
    temperature_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    """As reference.verify_draft, by blocks: the same distribution, other choices."""
    N, Q, V = logits_NQV.shape
    z_RV = logits_NQV.reshape(N * Q, V)
    place_R = (positions_N[:, None] + torch.arange(Q, device=z_RV.device)).reshape(-1)
    rows = (temperature_N.repeat_interleave(Q), seeds_N.repeat_interleave(Q), place_R)
    step = max(1, PART_SIZE // V)
    parts = [
        _chosen(z_RV[at : at + step].float(), *(x[at : at + step] for x in rows))
        for at in range(0, len(z_RV), step)
    ]
    token_R, raw_R, processed_R = (torch.cat(found) for found in zip(*parts, strict=True))
    choice_NQ = token_R.view(N, Q)
    agrees_NK = choice_NQ[:, : draft_NK.shape[1]] == draft_NK
    return Verified(
        choice_NQ,
        agrees_NK.long().cumprod(dim=1).sum(dim=1),
        raw_R.view(N, Q),
        processed_R.view(N, Q),
    )


def _chosen(
    z_RV: Tensor, temperature_R: Tensor, seeds_R: Tensor, positions_R: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, and their log-probabilities at temperature 1 and at the row's own."""
    if z_RV.shape[1] % BLOCK:
        z_RV = F.pad(z_RV, (0, -z_RV.shape[1] % BLOCK), value=NEVER)
    raw_RKB = z_RV.unflatten(1, (-1, BLOCK))
    raw_R = _log_sums(raw_RKB).logsumexp(dim=1)
    is_greedy_R = temperature_R == 0
    if bool(is_greedy_R.all()):
        best = z_RV.max(dim=1)
        return best.indices, best.values - raw_R, torch.zeros_like(raw_R)
    own_R11 = torch.where(is_greedy_R, 1.0, temperature_R)[:, None, None]
    scaled_RKB = raw_RKB if bool((own_R11 == 1).all()) else raw_RKB / own_R11
    block_RK = _log_sums(scaled_RKB)
    K = block_RK.shape[1]
    block_R = (block_RK + gumbel(seeds_R, positions_R, K)).argmax(dim=1)
    row_R = torch.arange(len(z_RV), device=z_RV.device)
    inside_RB = scaled_RKB[row_R, block_R]
    token_R = (inside_RB + gumbel(follow(seeds_R, block_R), positions_R, BLOCK)).argmax(dim=1)
    processed_R = inside_RB[row_R, token_R] - block_RK.logsumexp(dim=1)
    token_R = block_R * BLOCK + token_R
    if bool(is_greedy_R.any()):
        token_R = torch.where(is_greedy_R, z_RV.argmax(dim=1), token_R)
        processed_R = processed_R.masked_fill(is_greedy_R, 0.0)
    return token_R, z_RV[row_R, token_R] - raw_R, processed_R


def _log_sums(z_RKB: Tensor) -> Tensor:
    """log sum exp of each block. A block whose share is below e^-87 counts as empty: noise lies
    between -4 and 38, so that it could not be chosen."""
    top_R11 = z_RKB.amax(dim=(1, 2), keepdim=True)
    return (z_RKB - top_R11).exp_().sum(dim=2).log_() + top_R11[..., 0]
