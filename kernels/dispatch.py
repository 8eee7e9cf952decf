"""Picks the implementation of each operation by device and type, and says which.

Everything that scores, trains or verifies comes through here. Tensors on a GPU go to the Triton
kernels, all others to their twins in plain torch. `RATCHET_KERNELS=twin` or `triton` forces either;
Triton without a GPU needs its interpreter, `TRITON_INTERPRET=1` set before Python starts.
"""

import importlib.util
import os
from functools import lru_cache

import torch
from torch import Tensor

from kernels import arguments, block_choice, reference
from kernels.chunked import PART
from kernels.reference import Verified
from kernels.summed_logprob import SummedLogprob

SWITCH = "RATCHET_KERNELS"
_PLACES = {
    "linear_logprob": ("linear_logprob", "FusedLinearLogprob"),
    "critic_heads": ("critic_heads", "FusedCriticHeads"),
    "verify_draft": ("verify_draft", "coupled"),
}
OPERATIONS = tuple(_PLACES)
IGNORED = -100
"""A target that counts for nothing."""


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def is_fused(device: torch.device) -> bool:
    """Whether Triton runs what lies on this device. Raises RuntimeError for a switch in vain."""
    forced = os.environ.get(SWITCH) or "auto"
    if forced == "triton":
        if not _has_triton():
            raise RuntimeError(f"{SWITCH}=triton, and triton is not installed; unset it")
        if device.type != "cuda" and not is_interpreted():
            raise RuntimeError(
                f"{SWITCH}=triton, and the tensors are on {device}; unset it, or set "
                "TRITON_INTERPRET=1 as well"
            )
        return True
    if forced not in ("auto", "twin"):
        raise RuntimeError(f"{SWITCH}={forced!r}; wanted auto, triton or twin")
    return forced == "auto" and device.type == "cuda" and _has_triton()


def implementation(operation: str, device: str = "") -> str:
    """Dotted name of what runs for an operation, for reports; on the machine's best device."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not is_fused(torch.device(name)):
        return f"kernels.reference.{operation}"
    return "kernels." + ".".join(_PLACES[operation])


def linear_logprob(
    hidden_RE: Tensor,
    weight_VE: Tensor,
    target_M: Tensor,
    *,
    rows_M: Tensor | None = None,
) -> Tensor:
    """log softmax(hidden @ weight.T) at each target, float32 [M].

    `rows_M` picks rows of `hidden_RE` (one may come more than once); without it M = R. A target of
    -100 gives 0 and no gradient. Differentiable in hidden and weight, with any gradient a row.
    Raises TypeError and ValueError that name the argument.
    """
    hidden_RE, target_M = _logprob_arguments(hidden_RE, weight_VE, target_M, rows_M)
    if len(target_M) and is_fused(hidden_RE.device):
        from kernels.linear_logprob import FusedLinearLogprob

        found: Tensor = FusedLinearLogprob.apply(hidden_RE, weight_VE, target_M, rows_M)
        return found
    return reference.linear_logprob(hidden_RE, weight_VE, target_M, rows_M)


def _logprob_arguments(
    hidden_RE: Tensor, weight_VE: Tensor, target_M: Tensor, rows_M: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Hidden states in the weight's type, and targets with -1 for what counts for nothing."""
    arguments.shaped("hidden_RE", hidden_RE, "[rows, width]", None, None)
    arguments.floating("hidden_RE", hidden_RE)
    (R, E), V = hidden_RE.shape, len(weight_VE)
    arguments.shaped("weight_VE", weight_VE, "[vocabulary, width]", None, E)
    if torch.is_autocast_enabled(hidden_RE.device.type):  # either may have been cast on its way
        hidden_RE = hidden_RE.to(weight_VE.dtype)
    arguments.floating("weight_VE", weight_VE, hidden_RE)
    if V == 0:
        raise ValueError("weight_VE has no rows; wanted one for each token of the vocabulary")
    M = R if rows_M is None else rows_M.numel()
    arguments.shaped("target_M", target_M, "one a wanted row", M)
    arguments.integral("target_M", target_M, hidden_RE)
    if rows_M is not None:
        arguments.shaped("rows_M", rows_M, "one a target", M)
        arguments.integral("rows_M", rows_M, hidden_RE)
        arguments.within("rows_M", rows_M, R)
    arguments.within("target_M", target_M, V, IGNORED)
    return hidden_RE, target_M.long().masked_fill(target_M == IGNORED, -1)


def summed_logprob(hidden_ME: Tensor, weight_VE: Tensor, target_M: Tensor) -> Tensor:
    """The sum of `linear_logprob` over all rows, float32, for training: a quarter less work.

    A target of -100 counts for nothing. Raises as `linear_logprob` does.
    """
    is_low = torch.is_autocast_enabled(hidden_ME.device.type)
    is_fused_here = is_fused(hidden_ME.device)
    is_large = is_low or is_fused_here or target_M.numel() * len(weight_VE) > PART
    if not is_large or not torch.is_grad_enabled() or not len(target_M):
        return linear_logprob(hidden_ME, weight_VE, target_M).sum()
    hidden_ME, target_M = _logprob_arguments(hidden_ME, weight_VE, target_M, None)
    found: Tensor = SummedLogprob.apply(hidden_ME, weight_VE, target_M, is_fused_here)
    return found


def critic_heads(hidden_RE: Tensor, weight_SE: Tensor, rows_M: Tensor) -> Tensor:
    """Logits of S scalar heads at the wanted rows, float32 [M, S]; differentiable.

    Raises TypeError and ValueError that name the argument.
    """
    arguments.shaped("hidden_RE", hidden_RE, "[rows, width]", None, None)
    arguments.floating("hidden_RE", hidden_RE)
    arguments.shaped("weight_SE", weight_SE, "[heads, width]", None, hidden_RE.shape[1])
    if torch.is_autocast_enabled(hidden_RE.device.type):
        hidden_RE = hidden_RE.to(weight_SE.dtype)
    arguments.floating("weight_SE", weight_SE, hidden_RE)
    arguments.shaped("rows_M", rows_M, "rows wanted", None)
    arguments.integral("rows_M", rows_M, hidden_RE)
    arguments.within("rows_M", rows_M, len(hidden_RE))
    if len(rows_M) and is_fused(hidden_RE.device):
        from kernels.critic_heads import FusedCriticHeads

        found: Tensor = FusedCriticHeads.apply(hidden_RE, weight_SE, rows_M)
        return found
    return reference.critic_heads(hidden_RE, weight_SE, rows_M)


def verify_draft(
    logits_NQV: Tensor, draft_NK: Tensor, temperature: Tensor, seeds_N: Tensor, positions_N: Tensor
) -> Verified:
    """See reference.verify_draft: the engine's rule, any temperature from 0 on, a draft of -1 none.

    Raises TypeError and ValueError that name the argument.
    """
    wanted = "[texts, places, vocabulary]"
    arguments.shaped("logits_NQV", logits_NQV, wanted, None, None, None)
    arguments.floating("logits_NQV", logits_NQV)
    N, Q, V = logits_NQV.shape
    if V == 0 or Q == 0 or V >= 2**24:
        raise ValueError(f"logits_NQV has {Q} places of {V} tokens; wanted 1 or more of each")
    arguments.shaped("draft_NK", draft_NK, "one token a place but the last", N, None)
    if draft_NK.shape[1] >= max(1, Q):
        raise ValueError(f"draft_NK has {draft_NK.shape[1]} drafts; wanted fewer than {Q} places")
    arguments.integral("draft_NK", draft_NK, logits_NQV)
    for name, given in (("seeds_N", seeds_N), ("positions_N", positions_N)):
        arguments.shaped(name, given, "one a text", N)
        arguments.together(name, given, logits_NQV)
        if given.dtype != torch.int64:
            raise TypeError(f"{name} is {given.dtype}; wanted int64")
    temperature_N = arguments.temperatures(temperature, N, logits_NQV)
    return _verified(logits_NQV, draft_NK, temperature_N, seeds_N, positions_N)


def next_tokens(
    logits_NV: Tensor, temperature_N: Tensor, seeds_N: Tensor, positions_N: Tensor
) -> Verified:
    """As `verify_draft` without drafts, one place a text, of arguments known to be right: nothing
    is read back from the device, so that it can be captured in a graph."""
    none = seeds_N.new_empty((len(logits_NV), 0))
    return _verified(logits_NV[:, None], none, temperature_N, seeds_N, positions_N)


def _verified(
    logits_NQV: Tensor,
    draft_NK: Tensor,
    temperature_N: Tensor,
    seeds_N: Tensor,
    positions_N: Tensor,
) -> Verified:
    inputs = (logits_NQV, draft_NK, temperature_N, seeds_N, positions_N)
    N, _, V = logits_NQV.shape
    if N and is_fused(logits_NQV.device):
        from kernels.verify_draft import coupled

        return coupled(*inputs)
    if V >= block_choice.LARGE_VOCABULARY:
        return block_choice.verify_draft(*inputs)
    return reference.verify_draft(*inputs)
