"""Checkpoints from strangers: what is forged is refused by name, before anything is built of it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.checkpoints import files
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.header import read_header
from agent.checkpoints.weights import load_model, tensors_of
from agent.networks.architecture import SIZES, USED, WITHOUT_EFFECT, Architecture
from agent.networks.registry import build
from agent.networks.shapes import parameter_shapes
from search.errors import CheckpointError

Change = Callable[[Path], None]


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def weights(**values: torch.Tensor) -> Change:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(load_file(file) | values, file)

    return change


def header(edit: Callable[[dict[str, Any]], Any]) -> Change:
    """The safetensors header as `edit` leaves it, before the same bytes of weights."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        raw = file.read_bytes()
        end = 8 + int.from_bytes(raw[:8], "little")
        found = json.loads(raw[8:end])
        told = edit(found)
        new = told if isinstance(told, bytes) else json.dumps(found).encode()
        file.write_bytes(len(new).to_bytes(8, "little") + new + raw[end:])

    return change


def large_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write((100 * 2**20).to_bytes(8, "little"))
        file.truncate(101 * 2**20)


def self_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


def pipe(folder: Path) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    os.mkfifo(folder / "generation_config.json")


NORM = "model.norm.weight"


def norm_as(dtype: torch.dtype) -> Change:
    return weights(**{NORM: torch.ones(32).to(dtype)})


FORGED: dict[str, tuple[Change, str]] = {
    "long context": (config(max_position_embeddings=10**9), "max_position_embeddings 1000000000"),
    "wide": (config(hidden_size=10**6), "hidden_size 1000000"),
    "deep": (config(num_hidden_layers=10**6), "num_hidden_layers 1000000"),
    "deep within bounds": (config(num_hidden_layers=1000), "missing"),
    "no layer": (config(num_hidden_layers=0), "num_hidden_layers 0"),
    "negative": (config(vocab_size=-5), "vocab_size -5"),
    "fraction": (config(vocab_size=16.5), "vocab_size 16.5"),
    "truth value": (config(num_attention_heads=True), "num_attention_heads True"),
    "text": (config(tie_word_embeddings="yes"), "tie_word_embeddings 'yes'"),
    "odd width": (config(head_dim=7), "of width 7"),
    "heads": (config(num_key_value_heads=3), "on 3"),
    "no factor": (config(rope_parameters={"rope_type": "linear"}), "without 'factor'"),
    "NaN": (text("config.json", '{"rope_theta": NaN}'), "NaN is no number"),
    "infinity": (config(rope_parameters={"rope_theta": 10**400}), "rope_theta 1000"),
    "tiny theta": (config(rope_parameters={"rope_theta": 0.0}), "rope_theta 0.0"),
    "end": (config(eos_token_id=10**6), "eos_token_id 1000000"),
    "end as text": (config(eos_token_id="</s>"), "eos_token_id '</s>'"),
    "other end": (text("generation_config.json", '{"eos_token_id": [-1]}'), "eos_token_id -1"),
    "cut off": (text("generation_config.json", '{"eos_to'), "is not JSON"),
    "nested": (text("config.json", '{"a":' * 100_000), "nested too deeply"),
    "nested tokenizer": (text("tokenizer_config.json", "[" * 100_000), "nested too deeply"),
    "long": (text("config.json", " " * 2_000_000), "more than 1,048,576 bytes"),
    "binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe") and None, "is not JSON"),
    "unknown key": (config(_attn_implementation_internal="x/kernel"), "_attn_implementation_int"),
    "code": (config(auto_map={"AutoModel": "evil.py"}), "auto_map"),
    "tokenizer code": (text("tokenizer_config.json", '{"auto_map": {"a": "b"}}'), "auto_map"),
    "interleaved": (config(rope_interleaved=True), "rope_interleaved True"),
    "float8": (
        weights(**{NORM: torch.ones(32).to(torch.float8_e4m3fn)}),
        "float8 weights (F8_E4M3)",
    ),
    "complex": (weights(**{NORM: torch.ones(32, dtype=torch.complex64)}), "complex weights (C64)"),
    "integers": (weights(**{NORM: torch.ones(32, dtype=torch.int64)}), "integer weights (I64)"),
    "more tensors": (weights(extra=torch.ones(3)), "unknown ['extra']"),
    "long header": (large_header, "its header has 104,857,600 bytes"),
    "no header": (header(lambda _: b"{"), "its header is not JSON"),
    "deep header": (header(lambda _: b"[" * 100_000), "nested too deeply"),
    "a name twice": (header(lambda _: b'{"a": 1, "a": 2}'), "a name twice"),
    "a lie about the dtype": (header(lambda h: h[NORM].update(dtype="F64")), "and dtype F64 has"),
    "a dtype nobody knows": (header(lambda h: h[NORM].update(dtype="F3")), "has the dtype 'F3'"),
    "a negative shape": (header(lambda h: h[NORM].update(shape=[-32])), "has shape [-32]"),
    "a large shape": (header(lambda h: h[NORM].update(shape=[2**60])), "has shape ["),
    "overlap": (header(lambda h: h.update(b=h[NORM])), "begins at"),
    "behind the end": (
        header(lambda h: h[NORM].update(data_offsets=[10**12, 10**12 + 128])),
        "begins at 1000000000000",
    ),
    "a link to itself": (self_link, "leads nowhere or to itself"),
    "a pipe": (pipe, "no regular file"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_file_is_refused_by_name_before_a_weight_is_read(
    checkpoint: Path, name: str
) -> None:
    change, words = FORGED[name]
    change(checkpoint)
    (checkpoint / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError) as caught:
        read_header(checkpoint)
    assert words in caught.value.message and caught.value.fix
    assert len(caught.value.message) < 1000


def test_a_header_of_many_tensors_is_refused_fast_and_small(checkpoint: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header(lambda h: h.update({f"t{i}": entry for i in range(150_000)}))(checkpoint)
    code = (
        "import sys\n"
        "from agent.checkpoints.header import read_header\n"
        "from search.errors import CheckpointError\n"
        "try: read_header(sys.argv[1])\n"
        "except CheckpointError as error: print(error.message)\n"
        "peak = next(x for x in open('/proc/self/status') if x.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) // 1024, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, checkpoint], capture_output=True, text=True, timeout=60
    )
    told, figures = done.stdout.splitlines()
    assert "150," in told or "over" in told, done.stderr
    mib, has_torch = figures.split()
    assert int(mib) < 300 and has_torch == "False"


def test_what_is_hashed_is_what_is_loaded(checkpoint: Path, tmp_path: Path) -> None:
    """Weights replaced after they were looked at are refused, however it was done."""
    known = verify_checkpoint(checkpoint)
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    other = tmp_path / "other"
    other.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    os.replace(other, file)  # another file under the name
    with pytest.raises(CheckpointError, match="was changed"):
        load_model(known)
    file.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]]))  # the same file, written to
    with pytest.raises(CheckpointError, match="was changed"):
        load_model(known)
    file.write_bytes(whole)
    load_model(known)
    with pytest.raises(CheckpointError, match="was changed"), tensors_of(known):
        file.write_bytes(whole)  # while it is being read


def test_a_file_that_was_opened_is_read_though_its_name_goes_elsewhere(
    checkpoint: Path, tmp_path: Path
) -> None:
    raw = (checkpoint / "config.json").read_bytes()
    with files.opened(checkpoint, "config.json") as handle:
        (checkpoint / "config.json").unlink()
        (checkpoint / "config.json").symlink_to("/etc/passwd")
        assert os.pread(handle, 1_000_000, 0) == raw
    with pytest.raises(CheckpointError, match="leaves the directory"):
        files.read_bytes(checkpoint, "config.json")


def test_the_shapes_that_are_asked_for_are_those_of_the_networks() -> None:
    sizes = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "max_positions": 9}
    for kind, flags in (
        ("llama", {}),
        ("llama", {"has_qkv_bias": True, "has_output_bias": True, "has_mlp_bias": True}),
        ("mistral", {"is_tied": False}),
        ("qwen2", {"has_qkv_bias": True}),
        ("qwen3", {"has_qk_norm": True, "is_tied": False}),
    ):
        arch = Architecture(kind, 16, 32, 48, **sizes, **flags)  # type: ignore[arg-type]
        for is_critic in (False, True):
            network = build(arch, is_critic)
            built = {name: tuple(p.shape) for name, p in network.named_parameters()}
            assert parameter_shapes(arch, is_critic) == built


def test_every_key_that_transformers_writes_for_our_families_is_known() -> None:
    transformers = pytest.importorskip("transformers")
    known = {*USED, *WITHOUT_EFFECT}
    for name in ("Llama", "Mistral", "Qwen2", "Qwen3"):
        assert set(getattr(transformers, f"{name}Config")().to_dict()) <= known
    assert set(SIZES) <= known
