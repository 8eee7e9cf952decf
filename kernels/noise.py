"""Counter-based noise: a random number is a pure function of (seed, position, token).

Nothing is drawn from a stream, so a sampled token does not depend on which other rows share its
batch, on how many workers there are, or on whether a drafter proposed it first.
The mixer is SplitMix64's finaliser (Steele, Lea, Flood: "Fast splittable pseudorandom number
generators", OOPSLA 2014) on wrapping 64-bit integers.
"""

import torch
from torch import Tensor

VECTOR = 16
"""Numbers that a CPU's logarithm takes at once, or a multiple."""
PART = 1 << 17
"""Numbers of noise made at a time: they stay in a CPU's cache."""
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic on signed integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on an int64 tensor of any shape."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def uniform(seeds_R: Tensor, positions_R: Tensor, size: int) -> Tensor:
    """Uniform numbers in (0, 1), shape [R, size], for int64 seeds and positions of shape [R]."""
    stream_R = mix(seeds_R + mix(positions_R * _GOLDEN + 1))
    token_V = torch.arange(1, size + 1, device=seeds_R.device, dtype=torch.int64)
    bits_RV = mix(stream_R[:, None] + token_V[None, :] * _GOLDEN)
    return (_shift(bits_RV, 11).to(torch.float64) + 0.5) * (2.0**-53)


def follow(streams: Tensor, tokens: Tensor) -> Tensor:
    """The streams (int64, any shape) after one more token each: a digest of all tokens so far."""
    return mix(streams + mix(tokens * _GOLDEN + 1))


def gumbel(seeds_R: Tensor, positions_R: Tensor, size: int) -> Tensor:
    """Standard Gumbel noise, float32 [R, size]; argmax(log p + noise) is a sample from p."""
    step = max(1, PART // max(1, size))
    if len(seeds_R) <= step:
        return _gumbel(seeds_R, positions_R, size)
    # A part at a time: what is made on the way is eight times as large as the result.
    found_RV = torch.empty((len(seeds_R), size), dtype=torch.float32, device=seeds_R.device)
    for start in range(0, len(seeds_R), step):
        part = slice(start, start + step)
        found_RV[part] = _gumbel(seeds_R[part], positions_R[part], size)
    return found_RV


def _gumbel(seeds_R: Tensor, positions_R: Tensor, size: int) -> Tensor:
    # Whole vectors only: the last part of one goes through another logarithm, with other bits.
    uniforms_RV = uniform(seeds_R, positions_R, size + -size % VECTOR)
    return (-torch.log(-torch.log(uniforms_RV)))[:, :size].to(torch.float32)
