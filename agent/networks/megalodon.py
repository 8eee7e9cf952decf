"""Megalodon networks (Ma et al., arXiv 2404.08801), for training and, with a state, for streams.

A block smooths its input with a complex exponential moving average, attends within chunks of fixed
length alone, and passes its own input on twice. What it knows of all before a chunk lies in a state
of constant size. The computation is that of the released code where that and the paper differ (real
input weights, a skip, phases through a sigmoid); statistics of the norm are carried for ever, where
the released code re-reads the last chunks now and then.

Shapes: B rows, T tokens, E hidden width, N components of the average, G groups of the norm, H
heads, Z and V widths of keys and values in all heads, C tokens of a chunk.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agent.networks.architecture import Architecture, MegalodonShape
from agent.networks.decoder import DecoderModel

NORM_EPS = 1e-5
"""Of the norm over time, as released."""
LEAST_LOG = -80.0
"""Of the size of q: a component that forgets at once is 0, and no NaN."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Statistics of each group so far; none yet where `count` is 0."""

    count: Tensor
    """Tokens seen, int64 [B]."""
    mean: Tensor
    """[B, G]"""
    variance: Tensor
    """[B, G]"""


@dataclass(frozen=True, slots=True)
class BlockState:
    """All that a block needs of what it has read."""

    moments: Moments
    average: Tensor
    """The moving average's components, complex [B, E, N]."""
    keys: Tensor
    """Of the chunk under way, after the rotary embedding, [B, H, c, Z / H] with c < C."""
    values: Tensor
    """[B, H, c, V / H]"""


@dataclass(frozen=True, slots=True)
class StreamState:
    """All that a network needs of what it has read: its size does not grow with that."""

    blocks: tuple[BlockState, ...]
    last: Moments
    """Of the norm before the head."""

    @property
    def num_bytes(self) -> int:
        tensors = [self.last.count, self.last.mean, self.last.variance]
        for b in self.blocks:
            tensors += [b.moments.count, b.moments.mean, b.moments.variance]
            tensors += [b.average, b.keys, b.values]
        return sum(t.numel() * t.element_size() for t in tensors)


class ComplexEma(nn.Module):
    """h_t = q h_(t-1) + p x_t and y_t = Re sum(eta h_t) + omega x_t, for each feature apart.

    Parameters of more than one number a feature have a third dimension, so that no optimiser takes
    them for matrices.
    """

    def __init__(self, size: int, num: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.randn(size, num, 1) * 0.2)
        self.delta = nn.Parameter(torch.randn(size, num, 1) * 0.2)
        rank = (torch.randperm(size) + 1.0) / size
        first = size**-rank  # sigmoid(theta): from 1 down to 1 / size
        self.theta = nn.Parameter(torch.logit(first.clamp(max=1 - 1e-4)))
        self.gamma = nn.Parameter(torch.stack((torch.randn(size, num), torch.zeros(size, num)), -1))
        self.omega = nn.Parameter(torch.randn(size).mul(0.25).clamp(-1, 1))

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(p, log |q|, phase of q, Re eta, Im eta), [E, N] each."""
        low = self.alpha.dtype not in (torch.float32, torch.float64)
        alpha, delta, theta, gamma = (
            t.float() if low else t for t in (self.alpha, self.delta, self.theta, self.gamma)
        )
        alpha, delta = alpha[..., 0], delta[..., 0]
        p = torch.sigmoid(alpha)
        log_size = torch.log1p(-p * torch.sigmoid(delta)).clamp(min=LEAST_LOG)
        num = alpha.shape[1]
        wave = torch.arange(1, num + 1, device=alpha.device, dtype=alpha.dtype) * (
            2 * math.pi / num
        )
        phase = torch.sigmoid(theta)[:, None] * wave
        scale = num**-0.5
        return p, log_size, phase, scale * gamma[..., 0], scale * gamma[..., 1]

    def forward(
        self, x_BTE: Tensor, h_BEN: Tensor | None = None, goes_on: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """What comes of the tokens, [B, T, E], and, where the text `goes_on`, the components after
        them.

        By Fourier transform: O(T log T), all tokens at once. Powers of q are taken by size and
        phase, for products of many lose digits.
        """
        length = x_BTE.shape[1]
        p, log_size, phase, re, im = self.coefficients()
        time_T = torch.arange(length, device=x_BTE.device, dtype=p.dtype)
        size_ENT = torch.exp(log_size[..., None] * time_T)
        angle_ENT = phase[..., None] * time_T
        wave_ENT = re[..., None] * angle_ENT.cos() - im[..., None] * angle_ENT.sin()
        kernel_ET = (p[..., None] * size_ENT * wave_ENT).sum(dim=1)
        x_BET = x_BTE.transpose(1, 2)
        width = 2 * length
        product = torch.fft.rfft(x_BET, width) * torch.fft.rfft(kernel_ET, width)
        y_BET = torch.fft.irfft(product, width)[..., :length]
        after_BEN = None
        if goes_on:  # each token's share has decayed since it was read
            decay_ENT = torch.polar(size_ENT, angle_ENT).flip(-1)
            after_BEN = torch.einsum("bet,ent->ben", x_BET.to(decay_ENT.dtype), decay_ENT) * p
        if h_BEN is not None:
            power_ENT = torch.polar(
                torch.exp(log_size[..., None] * (time_T + 1)), phase[..., None] * (time_T + 1)
            )
            carried_BENT = power_ENT * h_BEN[..., None]
            eta_EN = torch.complex(re, im)
            y_BET = y_BET + (eta_EN[..., None] * carried_BENT).real.sum(dim=2)
            after_BEN = None if after_BEN is None else after_BEN + carried_BENT[..., -1]
        y_BTE = y_BET.transpose(1, 2) + self.omega * x_BTE
        return y_BTE, after_BEN


class TimestepNorm(nn.Module):
    """Each token's groups normed by mean and variance of all tokens up to it."""

    def __init__(self, size: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.zeros(size))
        """Less one, so that decay draws the scale to one."""
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x_BTE: Tensor, before: Moments | None = None) -> tuple[Tensor, Moments]:
        """Sums are taken of what lies beside the first token's mean: those of the tokens themselves
        lose digits where a mean is large."""
        groups = x_BTE.unflatten(-1, (self.num_groups, -1))
        mean_BTG = groups.mean(dim=-1)
        variance_BTG = groups.var(dim=-1, unbiased=False)
        shift_B1G = mean_BTG[:, :1].detach()
        beside = mean_BTG - shift_B1G
        count_T = torch.arange(1, x_BTE.shape[1] + 1, device=x_BTE.device, dtype=x_BTE.dtype)
        count_T1 = count_T[:, None]
        first = beside.cumsum(dim=1) / count_T1
        second = (beside.square() + variance_BTG).cumsum(dim=1) / count_T1
        mean, variance = shift_B1G + first, (second - first.square()).clamp(min=0)
        count_BT1 = count_T1.expand(x_BTE.shape[0], -1, 1)
        if before is not None:
            old = before.count.to(x_BTE.dtype)[:, None, None]
            total = old + count_BT1
            gap = mean - before.mean[:, None]
            share = count_BT1 / total
            mean_of_all = before.mean[:, None] + gap * share
            variance = (
                before.variance[:, None] * (1 - share)
                + variance * share
                + gap.square() * share * (1 - share)
            )
            mean, count_BT1 = mean_of_all, total
        normed = (groups - mean[..., None]) * torch.rsqrt(variance[..., None] + NORM_EPS)
        count = count_BT1[:, -1, 0].round().long()
        if before is not None:
            count = before.count + x_BTE.shape[1]
        after = Moments(count, mean[:, -1], variance[:, -1])
        return normed.flatten(-2) * (self.weight + 1) + self.bias, after


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        """Less one."""
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight + 1, self.eps)


class LayerNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        """Less one."""
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight + 1, self.bias, self.eps)


def turns(places_T: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of places, [T, width / 2]."""
    exponent = torch.arange(0, width, 2, device=places_T.device, dtype=torch.float32) / width
    angle = places_T.float()[..., None] * theta**-exponent
    return angle.cos(), angle.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., width]; neighbouring numbers turn together."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Attention(nn.Module):
    """Of a block: keys and queries are one normed projection of the smoothed input."""

    def __init__(self, arch: Architecture, shape: MegalodonShape) -> None:
        super().__init__()
        self.arch, self.shape = arch, shape
        size = arch.hidden_size
        self.z_proj = nn.Linear(size, shape.z_dim)
        self.v_proj = nn.Linear(size, shape.value_dim)
        self.r_proj = nn.Linear(size, shape.value_dim)
        self.h_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(shape.value_dim, size, bias=False)
        self.q_gain = nn.Parameter(torch.zeros(shape.z_dim))
        self.q_bias = nn.Parameter(torch.zeros(shape.z_dim))
        self.k_gain = nn.Parameter(torch.zeros(shape.z_dim))
        self.k_bias = nn.Parameter(torch.zeros(shape.z_dim))

    def queries_keys(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """Not rotated yet, [..., Z]: unit vectors a head where gains and biases are zero."""
        return self.queries_keys_of(self.z_proj(m))

    def queries_keys_of(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same of the projection itself."""
        heads = self.arch.num_heads
        z = z.unflatten(-1, (heads, -1))
        unit = F.rms_norm(z, z.shape[-1:], None, self.arch.norm_eps).flatten(-2)
        unit = unit * (self.shape.z_dim // heads) ** -0.5
        q = unit * (self.q_gain + 1) + self.q_bias
        k = unit * (self.k_gain + 1) + self.k_bias
        return q, k

    def mixed(self, m: Tensor, attended: Tensor) -> Tensor:
        """What the block adds to its input of what heads attended to, [..., V]."""
        r = F.silu(self.r_proj(m))
        out: Tensor = self.h_proj(m) + self.o_proj(r * attended)
        return out

    def forward(
        self, u_BTE: Tensor, m_BTE: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention within chunks; `keys` and `values` are those of the chunk under way."""
        heads, size = self.arch.num_heads, self.shape.chunk_size
        begun, length = keys.shape[2], u_BTE.shape[1]
        q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in self.queries_keys(m_BTE))
        v = F.silu(self.v_proj(u_BTE)).unflatten(-1, (heads, -1)).transpose(1, 2)
        place = (torch.arange(length, device=u_BTE.device) + begun) % size
        turn = turns(place, q.shape[-1], self.arch.rope_theta)
        q, k = (turned(t, *turn) for t in (q, k))
        # What is left of the chunk under way, then whole chunks, then what begins the next one.
        first = min(size - begun, length)
        keys = torch.cat((keys, k[:, :, :first]), dim=2)
        values = torch.cat((values, v[:, :, :first]), dim=2)
        parts = [_attended(q[:, :, :first], keys, values)]
        whole = (length - first) // size
        done = first + whole * size
        if whole:
            chunks = (
                t[:, :, first:done].unflatten(2, (whole, size)).transpose(1, 2).flatten(0, 1)
                for t in (q, k, v)
            )
            found = _attended(*chunks)
            parts.append(found.unflatten(0, (-1, whole)).transpose(1, 2).flatten(2, 3))
        if done < length:
            keys, values = k[:, :, done:], v[:, :, done:]
            parts.append(_attended(q[:, :, done:], keys, values))
        elif whole or keys.shape[2] == size:
            keys, values = keys[:, :, :0], values[:, :, :0]
        attended = torch.cat(parts, dim=2).transpose(1, 2).flatten(-2)
        return self.mixed(m_BTE, attended), keys, values


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention, the last query at the last key. |q k| is about one: nothing is scaled."""
    missing = k.shape[2] - q.shape[2]
    if not missing:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(missing)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)


class FeedForward(nn.Module):
    def __init__(self, arch: Architecture, shape: MegalodonShape) -> None:
        super().__init__()
        size, inner = arch.hidden_size, arch.intermediate_size
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)
        self.gate_proj = nn.Linear(size, inner, bias=False) if shape.is_gated else None

    def forward(self, x: Tensor) -> Tensor:
        up = self.up_proj(x)
        active = F.silu(up) if self.gate_proj is None else F.silu(self.gate_proj(x)) * up
        out: Tensor = self.down_proj(active)
        return out


class Block(nn.Module):
    def __init__(self, arch: Architecture, shape: MegalodonShape) -> None:
        super().__init__()
        size = arch.hidden_size
        self.timestep_norm = TimestepNorm(size, shape.norm_groups)
        self.cema = ComplexEma(size, shape.ema_dim)
        self.rms_norm = RMSNorm(size, arch.norm_eps)
        self.attention = Attention(arch, shape)
        self.ffn_norm = LayerNorm(size, arch.norm_eps)
        self.ffn = FeedForward(arch, shape)

    def forward(self, x_BTE: Tensor) -> Tensor:
        return self._through(x_BTE, None, False)[0]

    def span(self, x_BTE: Tensor, state: BlockState | None) -> tuple[Tensor, BlockState]:
        """The states after some tokens, and what is to be known of them for those to come."""
        found, after = self._through(x_BTE, state, True)
        assert after is not None
        return found, after

    def _through(
        self, x_BTE: Tensor, state: BlockState | None, goes_on: bool
    ) -> tuple[Tensor, BlockState | None]:
        # Averages and moments in float32, whatever products are made in.
        with torch.autocast(x_BTE.device.type, enabled=False):
            x32 = x_BTE if x_BTE.dtype == torch.float64 else x_BTE.float()
            u, moments = self.timestep_norm(x32, state.moments if state else None)
            smooth, average = self.cema(u, state.average if state else None, goes_on)
            m = self.rms_norm(smooth)
        keys, values = (state.keys, state.values) if state else self._none(x_BTE)
        added, keys, values = self.attention(u, m, keys.to(m.dtype), values.to(m.dtype))
        after = x_BTE + added
        out = self.ffn(self.ffn_norm(after)) + x_BTE
        return out, None if average is None else BlockState(moments, average, keys, values)

    def _none(self, x: Tensor) -> tuple[Tensor, Tensor]:
        heads, shape = self.attention.arch.num_heads, self.attention.shape
        widths = shape.z_dim // heads, shape.value_dim // heads
        keys, values = (x.new_zeros((x.shape[0], heads, 0, width)) for width in widths)
        return keys, values


class Backbone(nn.Module):
    def __init__(self, arch: Architecture, shape: MegalodonShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.layers = nn.ModuleList(Block(arch, shape) for _ in range(arch.num_layers))
        self.norm = TimestepNorm(arch.hidden_size, shape.norm_groups)


class MegalodonDecoder(DecoderModel):
    """A policy (`lm_head`) or, with `is_critic`, a scalar critic (`score`) on the same backbone.

    Rotary places begin again with every chunk, so the positions that training may draw are of no
    use to it and are not looked at.
    """

    model: Backbone

    @staticmethod
    def backbone_of(arch: Architecture) -> Backbone:
        assert arch.megalodon is not None
        return Backbone(arch, arch.megalodon)

    def lower(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        x = self.model.embed_tokens(tokens_BT).to(self.model.norm.weight.dtype)
        return self._through(x, 0, self.num_frozen)

    def upper(self, x_BTE: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        x = self._through(x_BTE, self.num_frozen, self.arch.num_layers)
        return self._normed(x, None)[0]

    def _normed(self, x: Tensor, before: Moments | None) -> tuple[Tensor, Moments]:
        with torch.autocast(x.device.type, enabled=False):
            found: tuple[Tensor, Moments] = self.model.norm(
                x if x.dtype == torch.float64 else x.float(), before
            )
        return found

    def _through(self, x: Tensor, start: int, end: int) -> Tensor:
        for block in self.model.layers[start:end]:
            if self.is_checkpointed and torch.is_grad_enabled() and start >= self.num_frozen:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def stream(
        self, tokens_BT: Tensor, state: StreamState | None = None
    ) -> tuple[Tensor, StreamState]:
        """Hidden states [B, T, E] of the next tokens of texts that were read up to `state`, and the
        state after them. However a text is cut, the states are the same up to rounding."""
        x = self.model.embed_tokens(tokens_BT).to(self.model.norm.weight.dtype)
        blocks = []
        for number, block in enumerate(self.model.layers):
            assert isinstance(block, Block)
            x, after = block.span(x, state.blocks[number] if state else None)
            blocks.append(after)
        hidden, last = self._normed(x, state.last if state else None)
        return hidden, StreamState(tuple(blocks), last)
