"""Shapes of a network's parameters by its architecture, without torch and without building it."""

from agent.networks.architecture import Architecture

MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear maps of a block, which adapters are put on."""
Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(arch: Architecture, is_critic: bool) -> Shapes:
    """Shape by name of all that a checkpoint must hold, as `llama.Decoder` names them."""
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
    if is_critic:
        found["score.weight"] = (1, hidden)
    elif not arch.is_tied:
        found["lm_head.weight"] = (arch.vocab_size, hidden)
    return found


def adapter_size(arch: Architecture, rank: int) -> int:
    """Numbers in adapters of this rank on all maps of the blocks."""
    return sum(
        rank * (shape[0] + shape[1])
        for name, shape in parameter_shapes(arch, False).items()
        if len(shape) == 2 and name.split(".")[-2] in MAPS
    )
