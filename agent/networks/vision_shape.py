"""What config.json says of the tower that reads pictures; read without torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.errors import CheckpointError

VISION_SIZES = {
    "image_size": 16_384,
    "patch_size": 1_024,
    "hidden_size": 16_384,
    "intermediate_size": 131_072,
    "num_hidden_layers": 256,
    "num_attention_heads": 256,
}
"""Largest sizes of a tower; each is needed."""
ACTIVATIONS = ("gelu_pytorch_tanh", "gelu")
FEWEST_TOKENS, MOST_TOKENS = 5, 16_384
"""Places of one picture: four spell its digest (`pictures`)."""
WITHOUT_EFFECT = (
    *("model_type", "attention_dropout", "dropout", "initializer_range", "initializer_factor"),
    *("dtype", "torch_dtype", "_name_or_path", "architectures", "transformers_version"),
    *("return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward"),
    *("id2label", "label2id", "problem_type", "is_encoder_decoder", "projection_dim"),
)
OURS = (*VISION_SIZES, "num_channels", "layer_norm_eps", "hidden_act", "vision_use_head")


@dataclass(frozen=True, slots=True)
class VisionShape:
    """A SigLIP tower, and how its features come to stand among the words (LLaVA's layout)."""

    image_size: int
    """Side of the square whose patches the tower has places for; another picture with as many
    patches is read, too."""
    patch_size: int
    num_channels: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    norm_eps: float
    activation: str
    feature_layer: int
    """Of the states that are handed on: -1 is the last block's, -2 the one's before it."""
    projector_activation: str
    has_projector_bias: bool
    image_token: int
    """Id of the placeholder in a prompt, one for each patch."""
    language: str
    """The language model's own model_type."""

    @property
    def num_tokens(self) -> int:
        """Places that a picture takes in a text: its patches."""
        return (self.image_size // self.patch_size) ** 2


def vision_shape(config: Mapping[str, Any], vocab_size: int, language: str) -> VisionShape:
    """Of a config.json of model_type llava around a language model of that model_type. Raises
    CheckpointError for what is not computed."""
    vision = _vision_config(config)
    sizes = {name: _whole(vision, name, most) for name, most in VISION_SIZES.items()}
    _check_sizes(sizes)
    channels = vision.get("num_channels", 3)
    if channels not in (1, 3) or type(channels) is not int:
        raise _wrong(f"num_channels {channels!r:.40}", "1 is grey, 3 is colour")
    eps = vision.get("layer_norm_eps", 1e-6)
    if type(eps) not in (int, float) or not 0 <= eps <= 1:
        raise _wrong(f"layer_norm_eps {eps!r:.40}", "give the config.json of the weights")
    has_bias = config.get("multimodal_projector_bias", True)
    if type(has_bias) is not bool:
        raise _wrong(f"multimodal_projector_bias {has_bias!r:.40}", "make it true or false")
    found = VisionShape(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        num_channels=channels,
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        norm_eps=float(eps),
        activation=_activation(vision, "hidden_act", ACTIVATIONS[0]),
        feature_layer=_feature_layer(config, sizes["num_hidden_layers"]),
        projector_activation=_activation(config, "projector_hidden_act", "gelu"),
        has_projector_bias=has_bias,
        image_token=_image_token(config, vocab_size),
        language=language,
    )
    said = config.get("image_seq_length")
    is_bounded = FEWEST_TOKENS <= found.num_tokens <= MOST_TOKENS
    if not is_bounded or said not in (None, found.num_tokens):
        raise _wrong(
            f"image_seq_length {said!r:.40}, and the tower gives {found.num_tokens:,} features "
            f"({FEWEST_TOKENS} to {MOST_TOKENS:,} are read)",
            "give the config.json that belongs to the weights",
        )
    return found


def _vision_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the tower, of known keys alone."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise _wrong("no vision_config", "save the checkpoint again with transformers")
    vision = {key: value for key, value in vision.items() if value is not None}
    if vision.get("model_type") != "siglip_vision_model":
        raise _wrong(
            f"a vision tower {vision.get('model_type')!r:.60}, and only SigLIP's is computed",
            "use a checkpoint with model_type siglip_vision_model in its vision_config; vLLM can "
            "serve others, but Ratchet cannot train them",
        )
    for key in vision:
        if key not in OURS and key not in WITHOUT_EFFECT:
            raise _wrong(f"vision_config key {key[:80]!r}, which is not known", "remove it")
    return vision


def _check_sizes(sizes: Mapping[str, int]) -> None:
    if sizes["image_size"] % sizes["patch_size"]:
        raise _wrong(
            f"image_size {sizes['image_size']} for patches of {sizes['patch_size']}",
            "make the first a multiple of the second",
        )
    if sizes["hidden_size"] % sizes["num_attention_heads"]:
        raise _wrong(
            f"{sizes['num_attention_heads']} vision heads for width {sizes['hidden_size']}",
            "make the second a multiple of the first",
        )


def _feature_layer(config: Mapping[str, Any], num_layers: int) -> int:
    layer = config.get("vision_feature_layer", -2)
    if type(layer) is not int or not -num_layers <= layer <= -1:
        raise _wrong(
            f"vision_feature_layer {layer!r:.40}", "-1 takes the last states, -2 those before them"
        )
    if config.get("vision_feature_select_strategy", "default") != "full":
        raise _wrong(
            "vision_feature_select_strategy that drops the first token, and SigLIP has none for it",
            "set it to 'full'",
        )
    return layer


def _activation(values: Mapping[str, Any], name: str, default: str) -> str:
    value = values.get(name, default)
    if value not in ACTIVATIONS:
        raise _wrong(f"{name} {value!r:.60}", f"one of {', '.join(ACTIVATIONS)} is computed")
    return str(value)


def _image_token(config: Mapping[str, Any], vocab_size: int) -> int:
    token = config.get("image_token_index", config.get("image_token_id", 32_000))
    if type(token) is not int or not 0 <= token < vocab_size:
        raise _wrong(
            f"image_token_index {token!r:.40} in a vocabulary of {vocab_size:,}",
            "add the placeholder to the tokenizer and resize the embeddings",
        )
    return token


def _whole(values: Mapping[str, Any], name: str, most: int) -> int:
    value = values.get(name)
    if type(value) is not int or not 1 <= value <= most:
        raise _wrong(
            f"vision_config {name} {value!r:.40}, which is no whole number from 1 to {most:,}",
            "give the config.json that belongs to the weights",
        )
    return value


def _wrong(what: str, fix: str) -> CheckpointError:
    return CheckpointError(f"config.json has {what}", fix)
