"""The clipped policy gradient that methods with rewards share."""

from typing import NamedTuple

import torch
from torch import Tensor


class Clip(NamedTuple):
    """How far a token's probability may have moved from when it was written and still pull on."""

    below: float = 0.2
    above: float = 0.2


CLIP = Clip()


def clipped_loss(
    logprob_N: Tensor, written_N: Tensor, advantage_N: Tensor, clip: Clip = CLIP
) -> Tensor:
    """PPO's loss (Schulman et al., arXiv 1707.06347, eq. 7): minus the mean of min(r A, clip(r) A),
    r being a token's probability over that with which it was written. Its bounds may differ (Yu et
    al., arXiv 2503.14476)."""
    ratio_N = torch.exp(logprob_N - written_N)
    clipped_N = ratio_N.clamp(1 - clip.below, 1 + clip.above)
    return -torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N).mean()
