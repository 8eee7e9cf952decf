"""Shapes of a network's parameters by its architecture, without torch and without building it."""

from agent.networks.architecture import Architecture, MegalodonShape
from agent.networks.vision_shape import VisionShape

MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear maps of a block, which adapters are put on."""
Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(arch: Architecture, is_critic: bool) -> Shapes:
    """Shape by name of all that a checkpoint must hold, as `llama.Decoder` names them."""
    if arch.megalodon is not None:
        return _megalodon_shapes(arch, arch.megalodon, is_critic)
    if arch.vision is not None:
        language = parameter_shapes(arch.language, is_critic)
        own = {LANGUAGE + name: shape for name, shape in language.items()}
        return own | _vision_shapes(arch.vision, arch.hidden_size)
    hidden, inner = arch.hidden_size, arch.intermediate_size
    width, kv_width = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    found: Shapes = {"model.embed_tokens.weight": (arch.vocab_size, hidden)}
    for number in range(arch.num_layers):
        at = f"model.layers.{number}."
        for name, rows, columns, has_bias in (
            ("self_attn.q_proj", width, hidden, arch.has_qkv_bias),
            ("self_attn.k_proj", kv_width, hidden, arch.has_qkv_bias),
            ("self_attn.v_proj", kv_width, hidden, arch.has_qkv_bias),
            ("self_attn.o_proj", hidden, width, arch.has_output_bias),
            ("mlp.gate_proj", inner, hidden, arch.has_mlp_bias),
            ("mlp.up_proj", inner, hidden, arch.has_mlp_bias),
            ("mlp.down_proj", hidden, inner, arch.has_mlp_bias),
        ):
            found[f"{at}{name}.weight"] = (rows, columns)
            if has_bias:
                found[f"{at}{name}.bias"] = (rows,)
        for name in ("q_norm", "k_norm") if arch.has_qk_norm else ():
            found[f"{at}self_attn.{name}.weight"] = (arch.head_dim,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}{name}.weight"] = (hidden,)
    found["model.norm.weight"] = (hidden,)
    return found | _head_shape(arch, is_critic)


def _head_shape(arch: Architecture, is_critic: bool) -> Shapes:
    if is_critic:
        return {"score.weight": (1, arch.hidden_size)}
    return {} if arch.is_tied else {"lm_head.weight": (arch.vocab_size, arch.hidden_size)}


def _megalodon_shapes(arch: Architecture, shape: MegalodonShape, is_critic: bool) -> Shapes:
    size, inner = arch.hidden_size, arch.intermediate_size
    z, v, n = shape.z_dim, shape.value_dim, shape.ema_dim
    block: Shapes = {
        "timestep_norm.weight": (size,),
        "timestep_norm.bias": (size,),
        "cema.alpha": (size, n, 1),
        "cema.delta": (size, n, 1),
        "cema.theta": (size,),
        "cema.gamma": (size, n, 2),
        "cema.omega": (size,),
        "rms_norm.weight": (size,),
        "ffn_norm.weight": (size,),
        "ffn_norm.bias": (size,),
        "ffn.up_proj.weight": (inner, size),
        "ffn.down_proj.weight": (size, inner),
    }
    block |= {f"attention.{name}": (z,) for name in ("q_gain", "q_bias", "k_gain", "k_bias")}
    for name, rows in (("z_proj", z), ("v_proj", v), ("r_proj", v), ("h_proj", size)):
        block[f"attention.{name}.weight"] = (rows, size)
        block[f"attention.{name}.bias"] = (rows,)
    block["attention.o_proj.weight"] = (size, v)
    if shape.is_gated:
        block["ffn.gate_proj.weight"] = (inner, size)
    found: Shapes = {"model.embed_tokens.weight": (arch.vocab_size, size)}
    for number in range(arch.num_layers):
        found |= {f"model.layers.{number}.{name}": shape for name, shape in block.items()}
    found |= {"model.norm.weight": (size,), "model.norm.bias": (size,)}
    return found | _head_shape(arch, is_critic)


LANGUAGE = "language_model."
"""What names of the language model begin with in a network that reads pictures."""
TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."
_OTHER_NAMES = (
    ("model.language_model.lm_head.", LANGUAGE + "lm_head."),
    ("model.language_model.", LANGUAGE + "model."),
    ("model.vision_tower.vision_model.", TOWER),
    ("model.vision_tower.", TOWER),
    ("model.multi_modal_projector.", PROJECTOR),
    ("vision_tower.vision_model.", TOWER),
    ("lm_head.", LANGUAGE + "lm_head."),
)
"""How else files name the same: transformers' own module names, and those of older versions."""
UNUSED = TOWER + "head."
"""SigLIP's pooling, which LLaVA has no use for."""


def own_name(arch: Architecture, name: str) -> str | None:
    """The name that a network has for a tensor of a file; None for one that it has no use for."""
    if arch.vision is None:
        return name
    for other, own in _OTHER_NAMES:
        if name.startswith(other):
            name = own + name.removeprefix(other)
            break
    return None if name.startswith(UNUSED) else name


def _vision_shapes(shape: VisionShape, hidden: int) -> Shapes:
    size, inner, patch = shape.hidden_size, shape.intermediate_size, shape.patch_size
    found: Shapes = {
        TOWER + "embeddings.patch_embedding.weight": (size, shape.num_channels, patch, patch),
        TOWER + "embeddings.patch_embedding.bias": (size,),
        TOWER + "embeddings.position_embedding.weight": (shape.num_tokens, size),
        TOWER + "post_layernorm.weight": (size,),
        TOWER + "post_layernorm.bias": (size,),
    }
    for number in range(shape.num_layers):
        at = f"{TOWER}encoder.layers.{number}."
        maps = {f"self_attn.{name}_proj": (size, size) for name in ("q", "k", "v", "out")}
        maps |= {"mlp.fc1": (inner, size), "mlp.fc2": (size, inner)}
        for name, (rows, columns) in maps.items():
            found |= {f"{at}{name}.weight": (rows, columns), f"{at}{name}.bias": (rows,)}
        for name in ("layer_norm1", "layer_norm2"):
            found |= {f"{at}{name}.weight": (size,), f"{at}{name}.bias": (size,)}
    for name, columns in (("linear_1", size), ("linear_2", hidden)):
        found[f"{PROJECTOR}{name}.weight"] = (hidden, columns)
        if shape.has_projector_bias:
            found[f"{PROJECTOR}{name}.bias"] = (hidden,)
    return found


def adapter_size(arch: Architecture, rank: int) -> int:
    """Numbers in adapters of this rank on all maps of the blocks."""
    return sum(
        rank * (shape[0] + shape[1])
        for name, shape in parameter_shapes(arch, False).items()
        if len(shape) == 2 and name.split(".")[-2] in MAPS
    )
