"""Each operation in plain torch: the definition, the fallback off-GPU, and the baseline.

Shapes: N texts, Q places of a text, E hidden width, V vocabulary, R rows of hidden states, M rows
wanted, S heads, K drafted tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.chunked import PART, ChunkedLinearLogprob, logits_of, parts
from kernels.noise import gumbel

MIN_ROWS = 4
"""Of a product: fewer rows are multiplied in another order on some CPUs."""


class Verified(NamedTuple):
    """What stands of the drafts, and what the target writes."""

    tokens: Tensor
    """int64 [N, Q]"""
    num_accepted: Tensor
    """int64 [N]"""
    logprob: Tensor
    """Of the tokens at temperature 1, float32 [N, Q]."""
    processed_logprob: Tensor
    """Of the tokens under the distribution they were drawn from, float32 [N, Q]."""


def linear_logprob(
    hidden_RE: Tensor, weight_VE: Tensor, target_M: Tensor, rows_M: Tensor | None
) -> Tensor:
    """log softmax(hidden @ weight.T) at each target, float32 [M].

    Row m is `hidden[rows_M[m]]`; a target of -1 marks a row that counts for nothing. Differentiable
    in hidden and weight. Where the logits are many they are made a part at a time.
    """
    if rows_M is not None and not torch.is_grad_enabled():
        return _of_rows(hidden_RE, weight_VE, target_M, rows_M)
    hidden_ME = hidden_RE if rows_M is None else hidden_RE[rows_M]
    is_low = torch.is_autocast_enabled(hidden_RE.device.type)
    if is_low or target_M.numel() * weight_VE.shape[0] > PART:
        found: Tensor = ChunkedLinearLogprob.apply(hidden_ME, weight_VE, target_M)
        return found
    return -torch.nn.functional.cross_entropy(
        logits_of(hidden_ME, weight_VE), target_M, reduction="none", ignore_index=-1
    )


def _of_rows(hidden_RE: Tensor, weight_VE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
    """The engine's way: a row's bits are the same whatever rows and targets there are beside it.

    That takes one formula for all, and no product of few rows.
    """
    if len(rows_M) >= len(hidden_RE):
        return _picked(hidden_RE, weight_VE, target_M, rows_M)
    hidden_ME = hidden_RE[rows_M]
    row_M = torch.arange(len(target_M), device=target_M.device)
    found = hidden_ME.new_zeros(len(target_M), dtype=torch.float32)
    for part in parts(len(target_M), len(weight_VE)):
        here = row_M[: part.stop - part.start]
        found[part] = _picked(hidden_ME[part], weight_VE, target_M[part], here)
    return found


def _picked(hidden_RE: Tensor, weight_VE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
    """Of each row's logits, made once, those of its targets less logsumexp."""
    missing = MIN_ROWS - len(hidden_RE)
    if missing > 0:
        hidden_RE = torch.cat((hidden_RE, hidden_RE[-1:].expand(missing, -1)))
    z_RV = logits_of(hidden_RE, weight_VE)
    logprob_M = z_RV[rows_M, target_M.clamp(min=0)] - torch.logsumexp(z_RV, dim=1)[rows_M]
    return logprob_M.masked_fill(target_M < 0, 0.0)


def critic_heads(hidden_RE: Tensor, weight_SE: Tensor, rows_M: Tensor) -> Tensor:
    """Scalar heads read at the wanted rows only: float32 logits [M, S]; differentiable."""
    return torch.nn.functional.linear(hidden_RE[rows_M].float(), weight_SE.float())


def verify_draft(
    logits_NQV: Tensor,
    draft_NK: Tensor,
    temperature_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    """The target's own choice at each of Q = K + 1 places, and how many drafts it agrees with.

    The choice is argmax(log p + noise), the noise a pure function of (seed, position, token), so it
    does not depend on the draft (Gumbel coupling; Daliri, Musco, Suresh, arXiv 2408.07978). At
    temperature 0 it is the most probable token. A draft of -1 is none.
    """
    raw_NQV = torch.log_softmax(logits_NQV.float(), dim=-1)
    temperature_N11 = temperature_N[:, None, None]
    if bool((temperature_N == 1).all()):
        log_p_NQV = raw_NQV
    else:
        scaled_NQV = torch.log_softmax(raw_NQV / temperature_N11.clamp(min=1e-6), dim=-1)
        # A row at temperature 1 has the same bits whatever the others have.
        log_p_NQV = torch.where(temperature_N11 == 1, raw_NQV, scaled_NQV)
        if bool((temperature_N == 0).any()):
            best = (
                torch.zeros_like(raw_NQV)
                .scatter_(2, raw_NQV.argmax(dim=-1, keepdim=True), 1.0)
                .log()
            )
            log_p_NQV = torch.where(temperature_N11 > 0, log_p_NQV, best)
    N, Q, V = log_p_NQV.shape
    if bool((temperature_N > 0).any()):
        place_NQ = positions_N[:, None] + torch.arange(Q, device=log_p_NQV.device)
        seeds_NQ = seeds_N[:, None].expand(N, Q)
        noise_NQV = gumbel(seeds_NQ.reshape(-1), place_NQ.reshape(-1), V).view(N, Q, V)
        choice_NQ = (log_p_NQV + noise_NQV).argmax(dim=-1)
    else:
        choice_NQ = log_p_NQV.argmax(dim=-1)
    agrees_NK = choice_NQ[:, : draft_NK.shape[1]] == draft_NK
    picked_NQ1 = choice_NQ[..., None]
    return Verified(
        choice_NQ,
        agrees_NK.long().cumprod(dim=1).sum(dim=1),
        raw_NQV.gather(2, picked_NQ1)[..., 0],
        log_p_NQV.gather(2, picked_NQ1)[..., 0],
    )
