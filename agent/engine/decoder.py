"""One decoder for every Llama-style checkpoint: Llama, Mistral, Qwen2 and Qwen3.

Parameter names are transformers' own, so a checkpoint's tensors load without renaming and what is
trained here loads there. Three ways through it:

- `forward`   whole rows, for training and for critics;
- `prefill`   whole rows, keeping keys and values: the shared prefixes of a batch of states;
- `decode`    a few tokens for each of K rows of every state, over that prefix and a row's suffix.

Shapes: B rows, N states, K rows of a state, Q tokens a step, T prefix tokens, S suffix capacity,
H query heads, G key heads, D head width, E hidden width, V vocabulary.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import dispatch
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
                f"use a checkpoint of one of: {', '.join(SUPPORTED)}",
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


@dataclass(slots=True)
class Prefix:
    """Keys and values shared by all rows of each state: one tensor [N, G, T, D] a layer."""

    keys: list[Tensor]
    values: list[Tensor]
    lengths_N: Tensor

    def take(self, index: Tensor) -> "Prefix":
        return Prefix([k[index] for k in self.keys], [v[index] for v in self.values],
                      self.lengths_N[index])  # fmt: skip


@dataclass(slots=True)
class Suffix:
    """Keys and values of each row's own tokens: one tensor [N, K, G, S, D] a layer.

    `position_NK` is how many suffix tokens count; rolling back is not advancing it.
    """

    keys: list[Tensor]
    values: list[Tensor]
    position_NK: Tensor

    def grown(self, capacity: int) -> None:
        """Room for `capacity` tokens a row, at least; doubles, so that short texts stay cheap."""
        have = self.keys[0].shape[3]
        if have < capacity:
            more = max(capacity, 2 * have) - have
            self.keys = [nn.functional.pad(k, (0, 0, 0, more)) for k in self.keys]
            self.values = [nn.functional.pad(v, (0, 0, 0, more)) for v in self.values]

    def take(self, index: Tensor) -> "Suffix":
        return Suffix([k[index] for k in self.keys], [v[index] for v in self.values],
                      self.position_NK[index])  # fmt: skip

    def reorder(self, beam_NK: Tensor) -> None:
        """Row k of state n becomes what row beam_NK[n, k] was."""
        state = torch.arange(beam_NK.shape[0], device=beam_NK.device)[:, None]
        self.keys = [k[state, beam_NK] for k in self.keys]
        self.values = [v[state, beam_NK] for v in self.values]
        self.position_NK = self.position_NK.gather(1, beam_NK)


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
        hidden, _, _ = self._rows(tokens_BT, positions_BT, keep=False)
        return hidden

    def prefill(self, tokens_NT: Tensor, lengths_N: Tensor) -> Prefix:
        """Keys and values of right-padded rows. Only the first `lengths` of each row count."""
        _, keys, values = self._rows(tokens_NT, None, keep=True)
        return Prefix(keys, values, lengths_N)

    def _rows(
        self, tokens_BT: Tensor, positions_BT: Tensor | None, keep: bool
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        if positions_BT is None:
            positions_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        cos, sin = self._angles(positions_BT)
        x = self.model.embed_tokens(tokens_BT)
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for block in self.model.layers:
            assert isinstance(block, Block)
            q, k, v = (t.transpose(1, 2) for t in
                       block.self_attn.project(block.input_layernorm(x), cos, sin))  # fmt: skip
            if keep:
                keys.append(k)
                values.append(v)
            out = F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=self.arch.num_kv_heads != self.arch.num_heads
            )
            x = x + block.self_attn.o_proj(out.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.post_attention_layernorm(x))
        return self.model.norm(x), keys, values

    def new_suffix(self, num_states: int, num_rows: int, capacity: int = 8) -> Suffix:
        """An empty suffix for each row; it grows as tokens are written."""
        arch = self.arch
        shape = (num_states, num_rows, arch.num_kv_heads, capacity, arch.head_dim)
        weight = self.model.norm.weight

        def empty() -> list[Tensor]:
            return [weight.new_zeros(shape) for _ in range(arch.num_layers)]

        return Suffix(
            empty(), empty(), torch.zeros(shape[:2], dtype=torch.long, device=weight.device)
        )

    def decode(self, tokens_NKQ: Tensor, prefix: Prefix, suffix: Suffix) -> Tensor:
        """Logits [N, K, Q, V] after each of Q tokens, written at the rows' own positions.

        Does not advance `suffix.position_NK`: the caller says how many of the Q tokens count.
        """
        N, K, Q = tokens_NKQ.shape
        suffix.grown(int(suffix.position_NK.max()) + Q)
        offset_NKQ = suffix.position_NK[..., None] + torch.arange(Q, device=tokens_NKQ.device)
        cos, sin = self._angles(prefix.lengths_N[:, None, None] + offset_NKQ)
        x = self.model.embed_tokens(tokens_NKQ)
        state = torch.arange(N, device=x.device)[:, None, None]
        row = torch.arange(K, device=x.device)[None, :, None]
        for i, block in enumerate(self.model.layers):
            assert isinstance(block, Block)
            q, k, v = block.self_attn.project(block.input_layernorm(x), cos, sin)
            suffix.keys[i][state, row, :, offset_NKQ] = k
            suffix.values[i][state, row, :, offset_NKQ] = v
            out = dispatch.tree_attention(
                q, prefix.keys[i], prefix.values[i], prefix.lengths_N,
                suffix.keys[i], suffix.values[i], suffix.position_NK,
            )  # fmt: skip
            x = x + block.self_attn.o_proj(out.flatten(3))
            x = x + block.mlp(block.post_attention_layernorm(x))
        logits: Tensor = self.lm_head(self.model.norm(x))
        return logits
