"""Each operation in plain torch: the definition, the fallback off-GPU, and the baseline.

Shapes: N jobs, Q queries of a job, C columns, G key heads, D head width, E hidden width, V
vocabulary, R rows of hidden states, M rows wanted, S heads, K drafted tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.chunked import PART, ChunkedLinearLogprob
from kernels.noise import RESIDUAL, TEST, gumbel, salted, uniform


class LogProbs(NamedTuple):
    """What a row's logits say of its target; float32 [M] each, 0 in ignored rows."""

    logprob: Tensor
    entropy: Tensor | None
    """Of the whole law, in nats; None where it was not asked for."""
    logsumexp: Tensor


class Verified(NamedTuple):
    """What stands of the drafts, and what the target writes."""

    tokens: Tensor
    """int64 [N, Q]; -1 behind the last token that is written, where a rule stops there."""
    num_accepted: Tensor
    """int64 [N]"""
    logprob: Tensor
    """Of the tokens at temperature 1, float32 [N, Q]."""
    law_logprob: Tensor
    """Of the tokens under the law they were drawn from, float32 [N, Q]."""


def tree_attention(
    q_NGQD: Tensor, key_NGCD: Tensor, value_NGCD: Tensor, bias_N1QC: Tensor
) -> Tensor:
    """Attention of a job's queries over its columns, [N, G, Q, D].

    The columns of a job are a tree of tokens; the bias is 0 where a query sees one and minus
    infinity where it does not. Keys are read once for all queries of a job. Heads that share keys
    (grouped-query attention) stand among the queries.
    """
    return torch.nn.functional.scaled_dot_product_attention(
        q_NGQD, key_NGCD, value_NGCD, attn_mask=bias_N1QC
    )


def prefix_attention(
    q_NHD: Tensor,
    prefix_key_PGD: Tensor,
    prefix_value_PGD: Tensor,
    key_NSGD: Tensor,
    value_NSGD: Tensor,
    lengths_N: Tensor,
) -> Tensor:
    """One query a node over a prefix that all nodes share and the node's own segment, [N, H, D].

    S columns a node, of which the first `lengths_N` count; head h looks at key head h // (H / G).
    Raises nothing itself; see dispatch.
    """
    N, H, D = q_NHD.shape
    P, G, _ = prefix_key_PGD.shape
    keys = torch.cat((prefix_key_PGD.expand(N, P, G, D), key_NSGD), dim=1)
    values = torch.cat((prefix_value_PGD.expand(N, P, G, D), value_NSGD), dim=1)
    column = torch.arange(keys.shape[1], device=q_NHD.device)
    is_seen = column < P + lengths_N[:, None]
    q = q_NHD.view(N, G, H // G, D)
    bias = torch.zeros(N, 1, 1, keys.shape[1], device=q.device, dtype=q.dtype)
    bias.masked_fill_(~is_seen[:, None, None], float("-inf"))
    found = torch.nn.functional.scaled_dot_product_attention(
        q, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=bias
    )
    return found.reshape(N, H, D)


def linear_logprob(
    hidden_RE: Tensor,
    weight_VE: Tensor,
    target_M: Tensor,
    bias_V: Tensor | None,
    rows_M: Tensor | None,
    heat_M: Tensor,
    wants_entropy: bool,
) -> LogProbs:
    """log softmax((hidden @ weight.T + bias) / heat) at each target, its entropy and logsumexp.

    Row m is `hidden[rows_M[m]]`; a target of -1 marks a row that counts for nothing. Differentiable
    in hidden, weight and bias. Where the logits are many they are made a part at a time.
    """
    is_shared = rows_M is not None and len(rows_M) >= len(hidden_RE)
    is_plain = not (torch.is_grad_enabled() or wants_entropy or bool((heat_M != 1).any()))
    if rows_M is not None and is_shared and is_plain:
        return _of_shared_rows(hidden_RE, weight_VE, target_M, bias_V, rows_M)
    hidden_ME = hidden_RE if rows_M is None else hidden_RE[rows_M]
    if target_M.numel() * weight_VE.shape[0] > PART:
        logprob, entropy, lse = ChunkedLinearLogprob.apply(
            hidden_ME, weight_VE, bias_V, target_M, heat_M, wants_entropy
        )
        return LogProbs(logprob, entropy if wants_entropy else None, lse)
    z_MV = _logits(hidden_ME, weight_VE, bias_V)
    if bool((heat_M != 1).any()):
        z_MV = z_MV / heat_M[:, None]
    logprob_M = -torch.nn.functional.cross_entropy(
        z_MV, target_M, reduction="none", ignore_index=-1
    )
    is_ignored = target_M < 0
    lse_M = z_MV.gather(1, target_M.clamp(min=0)[:, None])[:, 0] - logprob_M
    entropy_M = None
    if wants_entropy:
        logprob_MV = torch.log_softmax(z_MV, dim=1)
        # A token of probability 0 adds nothing: 0 times minus infinity is not asked.
        entropy_M = -(logprob_MV.exp() * logprob_MV.clamp(min=-1e30)).sum(dim=1)
        entropy_M = entropy_M.masked_fill(is_ignored, 0.0)
    return LogProbs(logprob_M, entropy_M, lse_M.masked_fill(is_ignored, 0.0))


def _of_shared_rows(
    hidden_RE: Tensor, weight_VE: Tensor, target_M: Tensor, bias_V: Tensor | None, rows_M: Tensor
) -> LogProbs:
    """Several targets of a row: its logits are made once."""
    z_RV = _logits(hidden_RE, weight_VE, bias_V)
    lse_R = torch.logsumexp(z_RV, dim=1)
    is_ignored = target_M < 0
    logprob_M = z_RV[rows_M, target_M.clamp(min=0)] - lse_R[rows_M]
    return LogProbs(
        logprob_M.masked_fill(is_ignored, 0.0), None, lse_R[rows_M].masked_fill(is_ignored, 0.0)
    )


def _logits(hidden_RE: Tensor, weight_VE: Tensor, bias_V: Tensor | None) -> Tensor:
    """In float32: with sixteen bits the logits themselves would be rounded."""
    return torch.nn.functional.linear(
        hidden_RE.float(), weight_VE.float(), None if bias_V is None else bias_V.float()
    )


def critic_heads(
    hidden_RE: Tensor, weight_SE: Tensor, bias_S: Tensor | None, rows_M: Tensor
) -> Tensor:
    """Scalar heads read at the wanted rows only: float32 logits [M, S]; differentiable."""
    found = torch.nn.functional.linear(hidden_RE[rows_M].float(), weight_SE.float())
    return found if bias_S is None else found + bias_S.float()


def verify_draft(
    logits_NQV: Tensor, draft_NK: Tensor, heat_N: Tensor, seeds_N: Tensor, positions_N: Tensor
) -> Verified:
    """The target's own choice at each of Q = K + 1 places, and how many drafts it agrees with.

    The choice is argmax(log p + noise), the noise a pure function of (seed, position, token), so it
    does not depend on the draft (Gumbel coupling; Daliri, Musco, Suresh, arXiv 2408.07978). At
    temperature 0 it is the most probable token. A draft of -1 is none.
    """
    raw_NQV = torch.log_softmax(logits_NQV.float(), dim=-1)
    heat_N11 = heat_N[:, None, None]
    if bool((heat_N == 1).all()):
        law_NQV = raw_NQV
    else:
        law_NQV = torch.log_softmax(raw_NQV / heat_N11.clamp(min=1e-6), dim=-1)
        if bool((heat_N == 0).any()):
            best = (
                torch.zeros_like(raw_NQV)
                .scatter_(2, raw_NQV.argmax(dim=-1, keepdim=True), 1.0)
                .log()
            )
            law_NQV = torch.where(heat_N11 > 0, law_NQV, best)
    N, Q, V = law_NQV.shape
    if bool((heat_N > 0).any()):
        place_NQ = positions_N[:, None] + torch.arange(Q, device=law_NQV.device)
        seeds_NQ = seeds_N[:, None].expand(N, Q)
        noise_NQV = gumbel(seeds_NQ.reshape(-1), place_NQ.reshape(-1), V).view(N, Q, V)
        choice_NQ = (law_NQV + noise_NQV).argmax(dim=-1)
    else:
        choice_NQ = law_NQV.argmax(dim=-1)
    agrees_NK = choice_NQ[:, : draft_NK.shape[1]] == draft_NK
    picked_NQ1 = choice_NQ[..., None]
    return Verified(
        choice_NQ,
        agrees_NK.long().cumprod(dim=1).sum(dim=1),
        raw_NQV.gather(2, picked_NQ1)[..., 0],
        law_NQV.gather(2, picked_NQ1)[..., 0],
    )


def verify_chain(
    logits_NQV: Tensor,
    draft_logits_NKV: Tensor,
    draft_NK: Tensor,
    heat_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    """Drafts x drawn from q = softmax(draft logits / heat), accepted while u q(x) < p(x).

    After the first other one a token of the residual relu(p - q), after a whole draft one of p
    (Leviathan et al. 2023, algorithm 1). What is written has the law p.
    """
    N, Q, _ = logits_NQV.shape
    K = Q - 1
    heat_N11 = heat_N[:, None, None]
    p_NQV = torch.softmax(logits_NQV.float() / heat_N11, dim=-1)
    q_NKV = torch.softmax(draft_logits_NKV.float() / heat_N11, dim=-1)
    place_NK = positions_N[:, None] + torch.arange(K, device=p_NQV.device)
    u_NK = uniform(
        salted(seeds_N, TEST)[:, None].expand(N, K).reshape(-1), place_NK.reshape(-1), 1
    ).view(N, K)
    draft_NK1 = draft_NK[..., None]
    is_kept = (
        u_NK * q_NKV.gather(2, draft_NK1)[..., 0].double()
        < p_NQV[:, :K].gather(2, draft_NK1)[..., 0].double()
    )
    num_N = is_kept.long().cumprod(dim=1).sum(dim=1)
    at = torch.arange(N, device=num_N.device)
    p_NV = p_NQV[at, num_N]
    q_pad = torch.cat((q_NKV, torch.zeros_like(p_NQV[:, :1])), dim=1)
    left_NV = _left(p_NV, q_pad[at, num_N])
    last_N = _drawn(left_NV, salted(seeds_N, RESIDUAL), positions_N + num_N)
    place_Q = torch.arange(Q, device=num_N.device)
    draft_NQ = torch.cat((draft_NK, draft_NK.new_zeros(N, 1)), dim=1)
    tokens_NQ = torch.where(place_Q == num_N[:, None], last_N[:, None], draft_NQ)
    tokens_NQ = tokens_NQ.masked_fill(place_Q > num_N[:, None], -1)
    return _with_logprobs(tokens_NQ, num_N, logits_NQV, heat_N)


def verify_siblings(
    logits_NV: Tensor,
    draft_logits_NV: Tensor,
    draft_NK: Tensor,
    heat_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    """Different drafts of one place, drawn from q without replacement, tried in the order drawn.

    After each rejection p becomes relu(p - q), normalised, and the draft leaves q (Miao et al.
    2024; Chen et al. 2024, Sequoia). `tokens` is [N, 1]; `num_accepted` is 1 where it is a draft.
    """
    p_NV = torch.softmax(logits_NV.float() / heat_N[:, None], dim=-1)
    q_NV = torch.softmax(draft_logits_NV.float() / heat_N[:, None], dim=-1)
    u_NK = uniform(salted(seeds_N, TEST), positions_N, draft_NK.shape[1])
    token_N = torch.full_like(positions_N, -1)
    for k in range(draft_NK.shape[1]):
        draft_N1 = draft_NK[:, k : k + 1]
        p, q = p_NV.gather(1, draft_N1)[:, 0], q_NV.gather(1, draft_N1)[:, 0]
        is_taken = (token_N < 0) & (u_NK[:, k] * q.double() < p.double())
        token_N = torch.where(is_taken, draft_N1[:, 0], token_N)
        left_NV = _left(p_NV, q_NV)
        p_NV = left_NV / left_NV.sum(dim=1, keepdim=True)
        q_NV = q_NV.scatter(1, draft_N1, 0.0)
        q_NV = q_NV / q_NV.sum(dim=1, keepdim=True).clamp(min=1e-30)
    num_N = (token_N >= 0).long()
    drawn_N = _drawn(p_NV, salted(seeds_N, RESIDUAL), positions_N)
    tokens_N1 = torch.where(num_N > 0, token_N, drawn_N)[:, None]
    return _with_logprobs(tokens_N1, num_N, logits_NV[:, None], heat_N)


def _left(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """relu(p - q) by row, or p where nothing is left."""
    left_NV = (p_NV - q_NV).clamp(min=0)
    return torch.where(left_NV.sum(dim=1, keepdim=True) > 0, left_NV, p_NV)


def _drawn(weight_NV: Tensor, seeds_N: Tensor, positions_N: Tensor) -> Tensor:
    """A token by weight: argmax(log weight + noise)."""
    return (weight_NV.log() + gumbel(seeds_N, positions_N, weight_NV.shape[1])).argmax(dim=1)


def _with_logprobs(
    tokens_NQ: Tensor, num_N: Tensor, logits_NQV: Tensor, heat_N: Tensor
) -> Verified:
    """0 where there is no token."""
    picked = tokens_NQ.clamp(min=0)[..., None]
    found = [
        torch.log_softmax(logits_NQV.float() / heat, dim=-1)
        .gather(2, picked)[..., 0]
        .masked_fill(tokens_NQ < 0, 0.0)
        for heat in (1.0, heat_N[:, None, None])
    ]
    return Verified(tokens_NQ, num_N, found[0], found[1])
