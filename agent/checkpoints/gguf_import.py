"""A GGUF file as an ordinary checkpoint folder: config.json, safetensors, tokenizer.json.

Names and layouts are llama.cpp's own (its converters `convert_hf_to_gguf.py`, read backwards): the
architecture `llama` stores queries and keys with the two halves of each head interleaved, `qwen2`
and `qwen3` as transformers does.
"""

import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.gguf_file import GgufFile, GgufTensor, gguf_file
from agent.checkpoints.gguf_tokenizer import token_id, tokenizer_files
from agent.checkpoints.manifest import digest_of
from agent.checkpoints.publish import dump, flush_all, sweep, take_place
from agent.networks.architecture import SIZES, Architecture
from agent.networks.llama import rope_frequencies
from agent.networks.shapes import parameter_shapes
from search.errors import CheckpointError, UsageError
from store.disks import unwritable
from store.leases import owner_name

OnTensor = Callable[[int, int], None]
"""Called with (tensors done, tensors in all)."""
FAMILIES = ("llama", "qwen2", "qwen3")
EXACT = ("F32", "F16", "BF16")
SHARD_BYTES = 2 * 2**30
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BLOCK = re.compile(r"blk\.(\d{1,5})\.(\w+)\.(weight|bias)")
WHOLE = re.compile(r"(\w+)\.(weight|bias)")
ROPE = "rope_freqs.weight"
"""Llama 3's long context: what each frequency is divided by."""


@dataclass(frozen=True, slots=True)
class Imported:
    path: Path
    version: str
    num_parameters: int
    kinds: dict[str, int]
    """How many tensors were stored as what."""

    @property
    def is_dequantised(self) -> bool:
        return not set(self.kinds) <= set(EXACT)


def import_gguf(file: Path, folder: Path, on_tensor: OnTensor = lambda done, num: None) -> Imported:
    """Write the model of a GGUF file, in bfloat16, to a new folder.

    The folder appears when it is whole; what a killed import left is swept. Raises UsageError for a
    folder that is there, CheckpointError for a broken file or another family, ResourceError.
    """
    if folder.exists():
        raise UsageError(f"{folder} is already there", "give a new folder, or remove it")
    sweep(folder.parent)
    scratch = folder.parent / f".writing {owner_name()} {uuid.uuid4().hex}"
    with _named(file), gguf_file(file) as opened:
        config = _config(opened)
        found = _sources(opened, config)
        num_bytes = 2 * sum(int(np.prod(t.shape)) for t in found.values())
        kinds = Counter(tensor.kind for tensor in found.values())
        try:
            scratch.mkdir(parents=True)
            _write_weights(opened, found, config, scratch, on_tensor)
            _write_texts(opened, config, scratch, file, kinds)
            flush_all(scratch)
            version = verify_checkpoint(scratch).version
            take_place(scratch, folder)
        except (OSError, SafetensorError) as error:
            raise unwritable(folder.parent, "the checkpoint", error, "DIR", num_bytes) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Imported(folder, version, num_bytes // 2, dict(sorted(kinds.items())))


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Every fault of a file names it."""
    try:
        yield
    except CheckpointError as error:
        if str(file) in error.message:
            raise
        raise CheckpointError(f"{file}: {error.message}", error.fix) from error
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{file} holds a value that cannot be: {type(error).__name__}: {error}",
            "use a file that llama.cpp's converter wrote",
        ) from error


def _config(opened: GgufFile) -> dict[str, Any]:
    """config.json. Raises CheckpointError for what the file does not say, or says wrongly."""
    said = opened.metadata
    family = said.get("general.architecture")
    if family not in FAMILIES:
        raise CheckpointError(
            f"{opened.path} holds a model of the family {family!r:.40}",
            f"use one of {', '.join(FAMILIES)} (Mistral counts as llama)",
        )

    def get(name: str, default: Any = None) -> Any:
        return said.get(f"{family}.{name}", default)

    embedding = opened.tensors.get("token_embd.weight")
    heads = get("attention.head_count")
    hidden = get("embedding_length")
    if embedding is None or type(heads) is not int or type(hidden) is not int or heads < 1:
        raise CheckpointError(
            f"{opened.path} says nothing of its embedding, its width or its heads",
            "use a file that llama.cpp's converter wrote",
        )
    head_dim = get("attention.key_length", hidden // heads)
    if get("rope.dimension_count", head_dim) != head_dim or get("expert_count", 0):
        raise CheckpointError(
            f"{opened.path} has experts, or rotates a part of each head alone",
            "use a dense Llama, Mistral, Qwen2 or Qwen3",
        )
    class_name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    num_tokens = len(said.get("tokenizer.ggml.tokens", []))
    if num_tokens > embedding.shape[0]:
        raise CheckpointError(
            f"{opened.path} has {num_tokens:,} tokens and {embedding.shape[0]:,} rows for them",
            "use a file whose tokenizer belongs to it",
        )
    ends = [token_id(said, name, num_tokens) for name in ("eos", "eot")]
    config = {
        "model_type": family,
        "architectures": [f"{class_name}ForCausalLM"],
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "max_position_embeddings": get("context_length"),
        "hidden_act": "silu",
        "rms_norm_eps": _short(get("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": _short(get("rope.freq_base", 10_000.0)),
        "tie_word_embeddings": "output.weight" not in opened.tensors,
        "bos_token_id": token_id(said, "bos", num_tokens),
        "eos_token_id": list(dict.fromkeys(end for end in ends if end is not None)),
        "dtype": "bfloat16",
    }
    if family == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in opened.tensors
    if (scaling := _scaling(opened, family, config)) is not None:
        config["rope_scaling"] = scaling
    Architecture.from_config(config)
    return config


def _short(value: Any) -> Any:
    """A float32 in as few digits as say it: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _scaling(opened: GgufFile, family: str, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """How positions are scaled. Llama 3's is stored as what comes of it, so that its numbers, which
    are the same in all of its models but for the factor, are checked against that."""
    kind = opened.metadata.get(f"{family}.rope.scaling.type", "none")
    if kind == "linear":
        factor = opened.metadata.get(f"{family}.rope.scaling.factor")
        return {"rope_type": "linear", "factor": factor}
    if kind not in ("none", "llama3") and kind is not None:
        raise CheckpointError(
            f"{opened.path} scales its positions by {kind!r:.40}", "use none, linear or llama3"
        )
    if ROPE not in opened.tensors:
        return None
    divisors = opened.floats(opened.tensors[ROPE]).astype(np.float64)
    plain = {key: value for key, value in config.items() if key in SIZES} | {
        "model_type": family,
        "rope_theta": config["rope_theta"],
    }
    for original in (8_192, 4_096, 16_384, 32_768):
        scaling = {
            "rope_type": "llama3",
            "factor": round(float(divisors.max()), 3),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original,
        }
        base = rope_frequencies(Architecture.from_config(plain))
        scaled = rope_frequencies(Architecture.from_config(plain | {"rope_scaling": scaling}))
        if np.allclose((base / scaled).numpy(), divisors, rtol=1e-3):
            return scaling
    raise CheckpointError(
        f"{opened.path} scales its positions in a way that is not Llama 3's", "use another model"
    )


def _sources(opened: GgufFile, config: Mapping[str, Any]) -> dict[str, GgufTensor]:
    """The file's tensors by the names that transformers gives them, all of them of the right shape.

    Raises CheckpointError before a weight is read.
    """
    found = {}
    for name, tensor in opened.tensors.items():
        if name == ROPE:
            continue
        if match := BLOCK.fullmatch(name):
            prefix, stem, part = f"model.layers.{int(match[1])}.", match[2], match[3]
        elif match := WHOLE.fullmatch(name):
            prefix, stem, part = "", match[1], match[2]
        else:
            prefix, stem, part = "", "", ""
        if stem not in NAMES:
            raise CheckpointError(
                f"{opened.path} has a tensor {name[:80]!r}, which is not of its family",
                "use a dense Llama, Mistral, Qwen2 or Qwen3",
            )
        found[f"{prefix}{NAMES[stem]}.{part}"] = tensor
    expected = parameter_shapes(Architecture.from_config(dict(config)), is_critic=False)
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    wrong = {n for n in expected.keys() & found.keys() if found[n].shape != expected[n]}
    if bad := sorted(missing | unknown | wrong):
        name = bad[0]
        raise CheckpointError(
            f"{opened.path}: {name} is {found[name].shape if name in found else 'not there'}, "
            f"expected {expected.get(name, 'none')}",
            "download the file again, or use another model",
        )
    return found


def _write_weights(
    opened: GgufFile,
    found: Mapping[str, GgufTensor],
    config: Mapping[str, Any],
    folder: Path,
    on_tensor: OnTensor,
) -> None:
    """bfloat16 in shards, so that no more than one of them is in memory."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, tensor in found.items():
        num_bytes = 2 * int(np.prod(tensor.shape))
        if size and size + num_bytes > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += num_bytes
    index, done = {}, 0
    for number, names in enumerate(groups, 1):
        file = (
            f"model-{number:05}-of-{len(groups):05}.safetensors"
            if len(groups) > 1
            else "model.safetensors"
        )
        tensors = {}
        for name in names:
            tensors[name] = _weight(opened, name, found[name], config)
            index[name] = file
            done += 1
            on_tensor(done, len(found))
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if len(groups) > 1:
        dump(folder / "model.safetensors.index.json", {"weight_map": index})


def _weight(
    opened: GgufFile, name: str, tensor: GgufTensor, config: Mapping[str, Any]
) -> torch.Tensor:
    values = torch.from_numpy(opened.floats(tensor))
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            f"{tensor.name} in {opened.path} holds NaN or infinite weights", "download it again"
        )
    if config["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        halves = values.unflatten(0, (heads, -1, 2)).transpose(1, 2)
        values = halves.reshape(values.shape)
    return values.to(torch.bfloat16).contiguous()


def _write_texts(
    opened: GgufFile,
    config: dict[str, Any],
    folder: Path,
    file: Path,
    kinds: Mapping[str, int],
) -> None:
    tokenizer, tokenizer_config = tokenizer_files(opened.metadata)
    if not config["eos_token_id"]:
        raise CheckpointError(
            f"{opened.path} names no token that ends a text", "use a file with its tokenizer in it"
        )
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    dump(folder / "tokenizer_config.json", tokenizer_config)
    dump(folder / "config.json", {k: v for k, v in config.items() if v is not None})
    dump(folder / "generation_config.json", {"eos_token_id": config["eos_token_id"]})
    with file.open("rb") as handle:
        sha = digest_of(handle.fileno())
    names = ("general.name", "general.license")
    about = {
        key: opened.metadata[key] for key in names if isinstance(opened.metadata.get(key), str)
    }
    imported = {"file": file.name, "sha256": sha, "tensors": dict(sorted(kinds.items()))}
    dump(folder / "ratchet.json", {"imported": imported | about})
    # safetensors lets only the owner read what it writes; the other files go by the umask.
    mode = (folder / "config.json").stat().st_mode & 0o777
    for weights in folder.glob("*.safetensors"):
        weights.chmod(mode)
