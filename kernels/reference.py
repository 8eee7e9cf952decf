"""Each operation in plain torch: the definition, the fallback off-GPU, and the baseline.

Shapes: N states, K rows of a state (beams or rollouts), Q query tokens, H query heads, G query
heads of one key head, T prefix tokens, S suffix tokens, D head width, E hidden width, V vocabulary,
R rows.
"""

import torch
from torch import Tensor


def tree_attention(
    q_NKQHD: Tensor,
    prefix_k_NGTD: Tensor,
    prefix_v_NGTD: Tensor,
    prefix_length_N: Tensor,
    suffix_k_NKGSD: Tensor,
    suffix_v_NKGSD: Tensor,
    position_NK: Tensor,
) -> Tensor:
    """Attention of K rows over their state's shared prefix and each row's own suffix.

    The prefix is read once for all K rows. Query token i of a row sees the whole prefix and the
    suffix entries up to and including `position + i`. Returns [N, K, Q, H, D].
    """
    N, K, Q, H, D = q_NKQHD.shape
    G, T = prefix_k_NGTD.shape[1:3]
    S = suffix_k_NKGSD.shape[3]
    group = H // G
    q = (q_NKQHD * D**-0.5).view(N, K, Q, G, group, D).permute(0, 3, 1, 2, 4, 5)
    scores_prefix = torch.matmul(
        q.reshape(N, G, K * Q * group, D), prefix_k_NGTD.transpose(2, 3)
    ).view(N, G, K, Q * group, T)
    seen_NT = torch.arange(T, device=q.device) < prefix_length_N[:, None]
    scores_prefix = scores_prefix.masked_fill(~seen_NT[:, None, None, None, :], float("-inf"))
    suffix_k = suffix_k_NKGSD.permute(0, 2, 1, 3, 4)
    scores_suffix = torch.matmul(q.reshape(N, G, K, Q * group, D), suffix_k.transpose(3, 4))
    last_NKQ = position_NK[:, :, None] + torch.arange(Q, device=q.device)
    seen_NKQS = torch.arange(S, device=q.device) <= last_NKQ[..., None]
    seen = (
        seen_NKQS[:, None, :, :, None, :]
        .expand(N, 1, K, Q, group, S)
        .reshape(N, 1, K, Q * group, S)
    )
    scores_suffix = scores_suffix.masked_fill(~seen, float("-inf"))
    weights = torch.softmax(torch.cat([scores_prefix, scores_suffix], dim=-1), dim=-1)
    out = torch.matmul(weights[..., :T].reshape(N, G, K * Q * group, T), prefix_v_NGTD).view(
        N, G, K, Q * group, D
    )
    out = out + torch.matmul(weights[..., T:], suffix_v_NKGSD.permute(0, 2, 1, 3, 4))
    out = out.view(N, G, K, Q, group, D).permute(0, 2, 3, 1, 4, 5)
    return out.reshape(N, K, Q, H, D)


def linear_logprob(hidden_RE: Tensor, weight_VE: Tensor, target_R: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T)[target] for each row, shape [R], differentiable."""
    logits_RV = torch.nn.functional.linear(hidden_RE, weight_VE)
    return -torch.nn.functional.cross_entropy(logits_RV.float(), target_R, reduction="none")


def critic_head(hidden_BTE: Tensor, weight_E: Tensor, row_M: Tensor, column_M: Tensor) -> Tensor:
    """Scalar head read at the wanted places only: logits of shape [M]."""
    return torch.matmul(hidden_BTE[row_M, column_M], weight_E)


def count_accepted(draft_RQ: Tensor, chosen_RQ: Tensor, length_R: Tensor) -> Tensor:
    """Number of leading drafted tokens equal to the policy's own choice, at most length, [R]."""
    same_RQ = draft_RQ == chosen_RQ[:, : draft_RQ.shape[1]]
    same_RQ &= torch.arange(draft_RQ.shape[1], device=draft_RQ.device) < length_R[:, None]
    return same_RQ.to(torch.int64).cumprod(dim=1).sum(dim=1)
