"""Each operation in plain torch: the definition, the fallback off-GPU, and the baseline.

Shapes: N jobs, Q queries of a job, C columns, G key heads, D head width, E hidden width, V
vocabulary, R rows.
"""

import torch
from torch import Tensor


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


def linear_logprob(hidden_RE: Tensor, weight_VE: Tensor, target_R: Tensor) -> Tensor:
    """log softmax(hidden @ weight.T)[target] for each row, shape [R], differentiable."""
    logits_RV = torch.nn.functional.linear(hidden_RE, weight_VE)
    return -torch.nn.functional.cross_entropy(logits_RV.float(), target_R, reduction="none")


def critic_head(hidden_BTE: Tensor, weight_E: Tensor, row_M: Tensor, column_M: Tensor) -> Tensor:
    """Scalar head read at the wanted places only: logits of shape [M]."""
    return torch.matmul(hidden_BTE[row_M, column_M], weight_E)
