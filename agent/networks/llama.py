"""One decoder for every Llama-style checkpoint: Llama, Mistral, Qwen2 and Qwen3.

Parameter names are transformers' own, so a checkpoint's tensors load without renaming and what is
trained here loads there. This is the form for training; `network` holds the same weights laid out
for inference.

Shapes: B rows, T tokens, H query heads, G key heads, D head width, E hidden width.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.errors import CheckpointError

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True, slots=True)
class Architecture:
    """What config.json says of the network, in our words."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    """Longest context in tokens: the position limit, or the attention window if that is shorter."""
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    is_tied: bool = True
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Architecture":
        """Read transformers' config.json. Raises CheckpointError for what we do not compute."""
        model_type = config.get("model_type")
        if model_type not in SUPPORTED:
            raise CheckpointError(
                f"model_type {model_type!r} is not supported",
                f"use a checkpoint of one of: {', '.join(SUPPORTED)}; vLLM can serve others, "
                "but Ratchet cannot train them",
            )
        if config.get("hidden_act", "silu") != "silu":
            raise CheckpointError(
                f"hidden_act {config['hidden_act']!r} is not supported",
                "use a checkpoint with hidden_act 'silu'",
            )
        try:
            hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
            rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
            bias = bool(config.get("attention_bias", False))
            return cls(
                model_type=model_type,
                vocab_size=int(config["vocab_size"]),
                hidden_size=hidden,
                intermediate_size=int(config["intermediate_size"]),
                num_layers=int(config["num_hidden_layers"]),
                num_heads=heads,
                num_kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                max_positions=_max_positions(config),
                norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
                rope_scaling=rope,
                is_tied=bool(config.get("tie_word_embeddings", False)),
                has_qkv_bias=bias or model_type == "qwen2",
                has_output_bias=bias and model_type in ("llama", "qwen3"),
                has_mlp_bias=bool(config.get("mlp_bias", False)),
                has_qk_norm=model_type == "qwen3",
            )
        except KeyError as error:
            raise CheckpointError(
                f"config.json has no {error.args[0]!r}",
                "save the checkpoint again with transformers",
            ) from error


def _max_positions(config: dict[str, Any]) -> int:
    longest = int(config.get("max_position_embeddings", 2048))
    window = config.get("sliding_window")
    uses_window = config.get("use_sliding_window", config.get("model_type") == "mistral")
    return min(longest, int(window)) if window and uses_window else longest


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


class Backbone(nn.Module):
    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(arch.vocab_size, arch.hidden_size)
        self.layers = nn.ModuleList(Block(arch) for _ in range(arch.num_layers))
        self.norm = RMSNorm(arch.hidden_size, arch.norm_eps)


class Decoder(nn.Module):
    """A policy (`lm_head`) or, with `is_critic`, a scalar critic (`score`) on the same backbone."""

    def __init__(self, arch: Architecture, is_critic: bool = False) -> None:
        super().__init__()
        self.arch = arch
        self.is_critic = is_critic
        self.model = Backbone(arch)
        if is_critic:
            self.score = nn.Linear(arch.hidden_size, 1, bias=False)
        else:
            self.lm_head = nn.Linear(arch.hidden_size, arch.vocab_size, bias=False)
            if arch.is_tied:
                self.lm_head.weight = self.model.embed_tokens.weight
        self.register_buffer("frequencies", rope_frequencies(arch), persistent=False)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].float() * self.get_buffer("frequencies")
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    def forward(self, tokens_BT: Tensor, positions_BT: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, E] after the last norm; rows are right-padded and causal."""
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        cos, sin = self._angles(positions_BT)
        x = self.model.embed_tokens(tokens_BT)
        for block in self.model.layers:
            assert isinstance(block, Block)
            q, k, v = (
                t.transpose(1, 2)
                for t in block.self_attn.project(block.input_layernorm(x), cos, sin)
            )
            out = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.arch.num_kv_heads != self.arch.num_heads
            )
            x = x + block.self_attn.o_proj(out.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.post_attention_layernorm(x))
        hidden: Tensor = self.model.norm(x)
        return hidden
