"""Llama-style networks, for training: Llama, Mistral, Qwen2 and Qwen3.

Parameter names are transformers' own, so a checkpoint's tensors load without renaming and what is
trained here loads there. `llama_inference` holds the same weights laid out for inference.

Shapes: B rows, T tokens, H query heads, G key heads, D head width, E hidden width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from agent.networks.architecture import Architecture
from agent.networks.decoder import DecoderModel
from search.errors import CheckpointError


def rope_frequencies(arch: Architecture) -> Tensor:
    """Inverse frequencies [D/2] with the scaling that the config names."""
    exponent = torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim
    inverse = 1.0 / (arch.rope_theta**exponent)
    scaling = arch.rope_scaling
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return inverse
    if kind == "linear":
        return inverse / float(scaling["factor"])
    if kind == "llama3":
        factor, original = float(scaling["factor"]), scaling["original_max_position_embeddings"]
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        wavelength = 2 * math.pi / inverse
        smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - smooth) * inverse / factor + smooth * inverse
    raise CheckpointError(
        f"rope scaling {kind!r} is not supported", "use default, linear or llama3 scaling"
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., heads, D] by cos and sin [..., D]."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.unsqueeze(-2) + turned * sin.unsqueeze(-2)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        width, kv_width = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
        self.q_proj = nn.Linear(arch.hidden_size, width, bias=arch.has_qkv_bias)
        self.k_proj = nn.Linear(arch.hidden_size, kv_width, bias=arch.has_qkv_bias)
        self.v_proj = nn.Linear(arch.hidden_size, kv_width, bias=arch.has_qkv_bias)
        self.o_proj = nn.Linear(width, arch.hidden_size, bias=arch.has_output_bias)
        if arch.has_qk_norm:
            self.q_norm = RMSNorm(arch.head_dim, arch.norm_eps)
            self.k_norm = RMSNorm(arch.head_dim, arch.norm_eps)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [..., H, D], keys and values [..., G, D] of hidden states x [..., E]."""
        lead, d = x.shape[:-1], self.arch.head_dim
        q = self.q_proj(x).view(*lead, self.arch.num_heads, d)
        k = self.k_proj(x).view(*lead, self.arch.num_kv_heads, d)
        v = self.v_proj(x).view(*lead, self.arch.num_kv_heads, d)
        if self.arch.has_qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v


class MLP(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        size, inner, bias = arch.hidden_size, arch.intermediate_size, arch.has_mlp_bias
        self.gate_proj = nn.Linear(size, inner, bias=bias)
        self.up_proj = nn.Linear(size, inner, bias=bias)
        self.down_proj = nn.Linear(inner, size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.self_attn = Attention(arch)
        self.mlp = MLP(arch)
        self.input_layernorm = RMSNorm(arch.hidden_size, arch.norm_eps)
        self.post_attention_layernorm = RMSNorm(arch.hidden_size, arch.norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (
            t.transpose(1, 2) for t in self.self_attn.project(self.input_layernorm(x), cos, sin)
        )
        arch = self.self_attn.arch
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=arch.num_kv_heads != arch.num_heads
        )
        x = x + self.self_attn.o_proj(out.transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


class Backbone(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.layers = nn.ModuleList(Block(arch) for _ in range(arch.num_layers))
        self.norm = RMSNorm(arch.hidden_size, arch.norm_eps)


class Decoder(DecoderModel):
    """A policy (`lm_head`) or, with `is_critic`, a scalar critic (`score`) on the same backbone."""

    model: Backbone

    def __init__(self, arch: Architecture, is_critic: bool = False) -> None:
        super().__init__(arch, is_critic)
        with torch.device("cpu"):  # where the weights are to be loaded later, on none (meta)
            self.register_buffer("frequencies", rope_frequencies(arch), persistent=False)

    @staticmethod
    def backbone_of(arch: Architecture) -> Backbone:
        return Backbone(arch)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].float() * self.get_buffer("frequencies")
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    def lower(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        return self.frozen_states(self.embedded(tokens_BT), positions_BT)

    def embedded(self, tokens_BT: Tensor) -> Tensor:
        """What the blocks begin with, [B, T, E]."""
        # A frozen embedding may be held in fewer bits than what training computes with.
        x: Tensor = self.model.embed_tokens(tokens_BT)
        return x.to(self.model.norm.weight.dtype)

    def frozen_states(self, x_BTE: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """States [B, T, E] after the frozen blocks, of what they begin with."""
        return self._through(x_BTE, positions_BT, 0, self.num_frozen)

    def upper(self, x_BTE: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        x = self._through(x_BTE, positions_BT, self.num_frozen, self.arch.num_layers)
        hidden: Tensor = self.model.norm(x)
        return hidden

    def _through(self, x: Tensor, positions_BT: Tensor | None, start: int, end: int) -> Tensor:
        """States after the blocks from `start` to `end`."""
        if start == end:
            return x
        if positions_BT is None:
            positions_BT = torch.arange(x.shape[1], device=x.device)[None]
        cos, sin = self._angles(positions_BT)
        for block in self.model.layers[start:end]:
            if self.is_checkpointed and torch.is_grad_enabled() and start >= self.num_frozen:
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        return x
