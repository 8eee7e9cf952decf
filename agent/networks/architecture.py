"""What config.json says of a network, in our words; read without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.networks.vision_shape import VisionShape, vision_shape
from search.errors import CheckpointError

ROPE_KINDS = ("default", "linear", "llama3")
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3", "llava", "megalodon")
SIZES = {
    "vocab_size": 4_000_000,
    "hidden_size": 65_536,
    "intermediate_size": 1_048_576,
    "num_hidden_layers": 1_024,
    "num_attention_heads": 1_024,
    "num_key_value_heads": 1_024,
    "head_dim": 1_024,
    "max_position_embeddings": 2_097_152,
    "sliding_window": 2_097_152,
    "z_dim": 65_536,
    "value_dim": 131_072,
    "cema_ndim": 1_024,
    "norm_num_groups": 4_096,
    "chunk_size": 65_536,
}
"""Largest sizes; each is some times that of the largest model in use."""
USED = (
    *SIZES,
    *("model_type", "architectures", "hidden_act", "rms_norm_eps", "rope_theta", "rope_scaling"),
    *("rope_parameters", "rope_interleaved", "tie_word_embeddings", "attention_bias", "mlp_bias"),
    *("use_sliding_window", "eos_token_id", "dtype", "torch_dtype", "swiglu"),
)
"""Keys of config.json that something is made of."""
WITHOUT_EFFECT = (
    *("_name_or_path", "transformers_version", "transformers.js_config", "tokenizer_class"),
    *("bos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id"),
    *("decoder_start_token_id", "attention_dropout", "hidden_dropout", "resid_pdrop"),
    *("embd_pdrop", "initializer_range", "initializer_factor", "chunk_size_feed_forward"),
    *("is_encoder_decoder", "is_decoder", "add_cross_attention", "cross_attention_hidden_size"),
    *("tie_encoder_decoder", "pruned_heads", "id2label", "label2id", "num_labels"),
    *("problem_type", "finetuning_task", "task_specific_params", "prefix", "layer_types"),
    *("max_window_layers", "output_attentions", "output_hidden_states", "pretraining_tp"),
    *("return_dict", "use_cache", "torchscript", "use_bfloat16", "tf_legacy_loss"),
    *(
        "_attn_implementation_autoset",
        "_flash_attn_2_enabled",
        "is_llama_config",
        "model_max_length",
    ),
    *("unsloth_version", "unsloth_fixed", "ratchet_notes", "max_sequence_length", "use_mrope"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
    *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
    *("num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id"),
    *("forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty"),
    *("suppress_tokens", "begin_suppress_tokens"),
)
"""Keys that transformers and common trainers write, and that change nothing of what we compute."""
OF_LLAVA = (
    *("text_config", "vision_config", "vision_feature_layer", "vision_feature_select_strategy"),
    *("projector_hidden_act", "multimodal_projector_bias", "image_token_index", "image_token_id"),
    "image_seq_length",
)
"""Keys of config.json that say how pictures come into the text."""
MUST_BE_FALSE = ("rope_interleaved", "use_mrope", "add_cross_attention", "is_encoder_decoder")


@dataclass(frozen=True, slots=True)
class MegalodonShape:
    """What a network of that family has beside the sizes of all."""

    z_dim: int
    """Width of queries and keys, in all heads."""
    value_dim: int
    ema_dim: int
    """Components of the moving average, of each feature."""
    norm_groups: int
    chunk_size: int
    """Tokens that attend to each other."""
    is_gated: bool
    """Whether the feed-forward part is gated (SwiGLU)."""


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
    megalodon: MegalodonShape | None = None
    vision: VisionShape | None = None
    """Of a network that reads pictures; all else is said of its language model."""

    @property
    def language(self) -> "Architecture":
        """The language model alone, of a network that reads pictures; else itself."""
        if self.vision is None:
            return self
        return replace(self, vision=None, model_type=self.vision.language)

    @property
    def activation_scale(self) -> float:
        """What a block leaves for the backward pass, against one of a Llama: an average leaves some
        numbers for each of its components."""
        return 1.0 if self.megalodon is None else 1.0 + 0.75 * self.megalodon.ema_dim

    @property
    def kept_bytes(self) -> int:
        """Bytes of `kept_width` numbers where weights have two each: a recurrent network's state
        has four."""
        return self.kept_width * (2 if self.megalodon is None else 4)

    @property
    def kept_width(self) -> int:
        """Numbers that a token leaves in the engine's cache, in each layer: keys and values or, of
        a recurrent network, with them the state after the token."""
        if self.megalodon is None:
            return 2 * self.num_kv_heads * self.head_dim
        shape = self.megalodon
        moments = 2 * (1 + 2 * shape.norm_groups)
        average = 2 * self.hidden_size * shape.ema_dim
        return shape.z_dim + shape.value_dim + moments + average

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Architecture":
        """Read transformers' config.json. Raises CheckpointError for what we do not compute.

        A null asks for nothing: it counts as a key that is not there.
        """
        config = {key: value for key, value in config.items() if value is not None}
        if config.get("model_type") == "llava":
            return _llava(config)
        _check_keys(config)
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
        sizes = {name: _size(config, name) for name in SIZES if name in config}
        for name in _NEEDED:
            if name not in sizes:
                raise CheckpointError(
                    f"config.json has no {name!r}", "save the checkpoint again with transformers"
                )
        hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
        kv_heads = sizes.get("num_key_value_heads", heads)
        head_dim = sizes.get("head_dim", max(1, hidden // heads))
        if model_type != "megalodon" and (heads % kv_heads or head_dim % 2):
            raise CheckpointError(
                f"config.json has {heads} attention heads of width {head_dim} on {kv_heads} "
                "key-value heads",
                "make the first a multiple of the last, and the width even",
            )
        rope = _rope(config)
        bias = _flag(config, "attention_bias")
        return cls(
            model_type=str(model_type),
            vocab_size=sizes["vocab_size"],
            hidden_size=hidden,
            intermediate_size=sizes["intermediate_size"],
            num_layers=sizes["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            max_positions=_max_positions(config, sizes),
            norm_eps=_number(config, "rms_norm_eps", 1e-6, 0.0, 1.0),
            rope_theta=_number(
                rope if "rope_theta" in rope else config, "rope_theta", 1e4, 1, 1e15
            ),
            rope_scaling=rope,
            is_tied=_flag(config, "tie_word_embeddings"),
            has_qkv_bias=bias or model_type == "qwen2",
            has_output_bias=bias and model_type in ("llama", "qwen3"),
            has_mlp_bias=_flag(config, "mlp_bias"),
            has_qk_norm=model_type == "qwen3",
            megalodon=_megalodon(config, sizes) if model_type == "megalodon" else None,
        )


def _llava(config: Mapping[str, Any]) -> Architecture:
    for key, value in config.items():
        if key not in OF_LLAVA and key not in USED and key not in WITHOUT_EFFECT:
            raise CheckpointError(
                f"config.json has the key {key[:80]!r}, which is not known",
                "remove it if the network does not need it",
            )
        if key in MUST_BE_FALSE and value is not False:
            raise CheckpointError(
                f"config.json has {key} {value!r:.80}, which is not computed", "use another model"
            )
    text = config.get("text_config")
    if not isinstance(text, dict) or text.get("model_type") in ("llava", "megalodon"):
        raise CheckpointError(
            "config.json has no text_config of a language model that is computed",
            "save the checkpoint again with transformers",
        )
    language = Architecture.from_config(text)
    is_tied = _flag(config, "tie_word_embeddings") or _flag(text, "tie_word_embeddings")
    vision = vision_shape(config, language.vocab_size, language.model_type)
    return replace(language, model_type="llava", is_tied=is_tied, vision=vision)


OF_LLAMA = ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias", "rope_scaling")
"""What a Megalodon network has no use for."""
MEGALODON = ("z_dim", "value_dim", "cema_ndim", "norm_num_groups", "chunk_size")
_NEEDED = (
    *("hidden_size", "num_attention_heads", "vocab_size", "intermediate_size"),
    "num_hidden_layers",
)


def _megalodon(config: Mapping[str, Any], sizes: Mapping[str, int]) -> MegalodonShape:
    kind = _rope(config).get("rope_type", "default")
    if kind != "default":
        raise CheckpointError(
            f"config.json has rope scaling {kind!r}, and chunks of a Megalodon network need none",
            "remove it",
        )
    for name in MEGALODON:
        if name not in sizes:
            raise CheckpointError(
                f"config.json has no {name!r}", "give the config.json that belongs to the weights"
            )
    heads = sizes["num_attention_heads"]
    for name, part in (("z_dim", 2 * heads), ("value_dim", heads)):
        if sizes[name] % part:
            raise CheckpointError(
                f"config.json has {name} {sizes[name]} for {heads} heads",
                f"make it a multiple of {part}",
            )
    if sizes["hidden_size"] % sizes["norm_num_groups"]:
        raise CheckpointError(
            f"config.json has {sizes['norm_num_groups']} norm groups of {sizes['hidden_size']} "
            "features",
            "make the second a multiple of the first",
        )
    return MegalodonShape(
        z_dim=sizes["z_dim"],
        value_dim=sizes["value_dim"],
        ema_dim=sizes["cema_ndim"],
        norm_groups=sizes["norm_num_groups"],
        chunk_size=sizes["chunk_size"],
        is_gated=_flag(config, "swiglu"),
    )


def _check_keys(config: Mapping[str, Any]) -> None:
    """Only keys that are known may say anything: others may ask for code or another computation."""
    is_megalodon = config.get("model_type") == "megalodon"
    foreign = OF_LLAMA if is_megalodon else (*MEGALODON, "swiglu")
    for key, value in config.items():
        if key in foreign and value is not False:
            raise CheckpointError(
                f"config.json has {key} {value!r:.80}, which networks of model_type "
                f"{config.get('model_type')!r:.40} do not have",
                "give the config.json that belongs to the weights",
            )
        if key not in USED and key not in WITHOUT_EFFECT:
            raise CheckpointError(
                f"config.json has the key {key[:80]!r}, which is not known",
                "remove it if the network does not need it; remote code, quantised weights and "
                "other attention are not followed",
            )
        if key in MUST_BE_FALSE and value is not False:
            raise CheckpointError(
                f"config.json has {key} {value!r:.80}, which is not computed", "use another model"
            )


def _size(config: Mapping[str, Any], name: str) -> int:
    value, most = config[name], SIZES[name]
    if type(value) is not int or not 1 <= value <= most:
        raise CheckpointError(
            f"config.json has {name} {value!r:.80}, which is no whole number from 1 to {most:,}",
            "give the config.json that belongs to the weights",
        )
    return value


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name, False)
    if type(value) is not bool:
        raise CheckpointError(f"config.json has {name} {value!r:.80}", "make it true or false")
    return value


def _number(values: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Within bounds, which NaN and infinity never are."""
    value = values.get(name, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise CheckpointError(
            f"config.json has {name} {value!r:.80}, which is no number from {low:g} to {high:g}",
            "give the config.json that belongs to the weights",
        )
    return float(value)


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of rotary positions, its numbers checked."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"config.json has rope_parameters {rope!r:.80}", "make it an object")
    rope = {key: value for key, value in rope.items() if value is not None}
    _check_rope(rope)
    kind = rope.get("rope_type", rope.get("type", "default"))
    needed = {
        "linear": ("factor",),
        "llama3": (
            *("factor", "low_freq_factor", "high_freq_factor"),
            "original_max_position_embeddings",
        ),
    }
    for name in needed.get(kind, ()):
        if name not in rope:
            raise CheckpointError(
                f"config.json has rope scaling {kind!r} without {name!r}",
                "give the config.json that belongs to the weights",
            )
        _number(rope, name, 1.0, 1e-3, 1e8)
    if kind == "llama3" and not rope["low_freq_factor"] < rope["high_freq_factor"]:
        raise CheckpointError(
            f"config.json has low_freq_factor {rope['low_freq_factor']} and high_freq_factor "
            f"{rope['high_freq_factor']}",
            "make the first the smaller one",
        )
    return rope


def _check_rope(rope: dict[str, Any]) -> None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise CheckpointError(
            f"rope scaling {kind!r} is not supported",
            f"use a checkpoint with {', '.join(ROPE_KINDS)} scaling; where the scaling only "
            "stretches the context, removing rope_scaling from config.json leaves the usual one",
        )


def _max_positions(config: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    longest = sizes.get("max_position_embeddings", 2048)
    window = sizes.get("sliding_window")
    uses_window = config.get("use_sliding_window", config.get("model_type") == "mistral")
    return min(longest, window) if window and uses_window else longest
