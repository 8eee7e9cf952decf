"""What config.json says of a network, in our words; read without torch."""

from dataclasses import dataclass, field
from typing import Any

from search.errors import CheckpointError

ROPE_KINDS = ("default", "linear", "llama3")
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
        """Read transformers' config.json. Raises CheckpointError for what we do not compute.

        A null asks for nothing: it counts as a key that is not there.
        """
        config = {key: value for key, value in config.items() if value is not None}
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
            _check_rope(rope)
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


def _check_rope(rope: dict[str, Any]) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise CheckpointError(
            f"rope scaling {kind!r} is not supported",
            f"use a checkpoint with {', '.join(ROPE_KINDS)} scaling; where the scaling only "
            "stretches the context, removing rope_scaling from config.json leaves the usual one",
        )


def _max_positions(config: dict[str, Any]) -> int:
    longest = int(config.get("max_position_embeddings", 2048))
    window = config.get("sliding_window")
    uses_window = config.get("use_sliding_window", config.get("model_type") == "mistral")
    return min(longest, int(window)) if window and uses_window else longest
