"""`noise` inside kernels: the same counters and mixer, the logarithms in float32.

The bits are those of `noise`; the Gumbel numbers agree with it to a few units in the last place of
float32, the tail of numbers near one included.
"""

import triton
import triton.language as tl

# Inside a kernel only annotated constants may be looked at.
GOLDEN: tl.constexpr = tl.constexpr(-7046029254386353131)
MIX_1: tl.constexpr = tl.constexpr(-4658895280553007687)
MIX_2: tl.constexpr = tl.constexpr(-7723592293110705685)
UNIT: tl.constexpr = tl.constexpr(2.0**-53)
HALF: tl.constexpr = tl.constexpr(2**52)


@triton.jit
def _shift(x, bits: tl.constexpr):
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@triton.jit
def mix(x):
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


@triton.jit
def stream(seed, position):
    return mix(seed + mix(position * GOLDEN + 1))


@triton.jit
def numerators(at, token):
    """Whole numbers k below 2**53; (k + 1/2) / 2**53 is the uniform number."""
    return _shift(mix(at + (token + 1) * GOLDEN), 11)


@triton.jit
def gumbel(at, token):
    """-log(-log u) in float32, exact in both tails.

    Below one half log u is taken of u; above it of 1 - w, w = 1 - u being kept exactly, with
    log1p(-w) = log(y) (-w) / (y - 1) for y = 1 - w as rounded (Kahan).
    """
    k = numerators(at, token)
    low = (k.to(tl.float32) + 0.5) * UNIT
    w = ((9007199254740991 - k).to(tl.float32) + 0.5) * UNIT  # 2**53 - 1 - k
    y = 1.0 - w
    is_one = y == 1.0
    near_one = tl.where(is_one, w, tl.log(y) * (w / tl.where(is_one, 1.0, 1.0 - y)) * -1.0)
    exponential = tl.where(k < HALF, -tl.log(low), near_one)
    return -tl.log(exponential)
