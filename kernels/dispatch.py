"""Picks the implementation of each operation by device, and says which.

Today every operation runs its plain-torch twin from `reference`; callers go through this module so
that a fused kernel takes over by being registered here and nowhere else.
"""

from collections.abc import Callable

from torch import Tensor

from kernels import reference

_IMPLEMENTATIONS: dict[str, Callable[..., Tensor]] = {
    "tree_attention": reference.tree_attention,
    "linear_logprob": reference.linear_logprob,
    "critic_head": reference.critic_head,
}


OPERATIONS = tuple(_IMPLEMENTATIONS)


def implementation(operation: str) -> str:
    """Dotted name of what runs for an operation, for reports."""
    chosen = _IMPLEMENTATIONS[operation]
    return f"{chosen.__module__}.{chosen.__name__}"


def tree_attention(*arguments: Tensor) -> Tensor:
    """See reference.tree_attention."""
    return _IMPLEMENTATIONS["tree_attention"](*arguments)


def linear_logprob(hidden_RE: Tensor, weight_VE: Tensor, target_R: Tensor) -> Tensor:
    """See reference.linear_logprob."""
    return _IMPLEMENTATIONS["linear_logprob"](hidden_RE, weight_VE, target_R)


def critic_head(hidden_BTE: Tensor, weight_E: Tensor, row_M: Tensor, column_M: Tensor) -> Tensor:
    """See reference.critic_head."""
    return _IMPLEMENTATIONS["critic_head"](hidden_BTE, weight_E, row_M, column_M)
