"""GGUF files: what comes out is the model that went in, and a broken one is a message."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors import SafetensorError
from tokenizers import Tokenizer

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.gguf_file import gguf_file
from agent.checkpoints.gguf_import import NAMES, Imported, import_gguf
from agent.checkpoints.gguf_tokenizer import tokenizer_files
from agent.checkpoints.weights import load_model
from agent.engine.tokenizer import Tokenizer as OurTokenizer
from agent.networks.architecture import Architecture
from agent.networks.language_model import LanguageModel
from agent.networks.llama import rope_frequencies
from agent.networks.registry import build
from search.errors import CheckpointError, ResourceError, UsageError
from tests.agent.chat import byte_level

SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50_000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A projection as llama.cpp stores it for the architecture `llama`."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def written(
    file: Path,
    model: LanguageModel,
    family: str = "llama",
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    leave_out: str = "",
    **metadata: Any,
) -> Path:
    """The model in a GGUF file, by the package's own writer."""
    arch = model.arch
    writer = GGUFWriter(file, family)
    fast = json.loads(byte_level(bos=False).to_str())
    vocab = sorted(fast["model"]["vocab"].items(), key=lambda pair: pair[1])
    vocab += [(f"unused {i}", i) for i in range(len(vocab), SIZES["vocab_size"])]
    values = {
        "block_count": arch.num_layers,
        "context_length": arch.max_positions,
        "embedding_length": arch.hidden_size,
        "feed_forward_length": arch.intermediate_size,
        "attention.head_count": arch.num_heads,
        "attention.head_count_kv": arch.num_kv_heads,
    } | {k: v for k, v in metadata.items() if not k.startswith("tokenizer.")}
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(f"{family}.{key}", value)
        else:
            writer.add_uint32(f"{family}.{key}", value)
    writer.add_float32(f"{family}.attention.layer_norm_rms_epsilon", arch.norm_eps)
    writer.add_float32(f"{family}.rope.freq_base", arch.rope_theta)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(metadata.get("tokenizer.pre", "smollm"))
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3 if number < 4 else 1 for _, number in vocab])
    writer.add_token_merges([" ".join(pair) for pair in fast["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(metadata.get("tokenizer.eos", 3))
    writer.add_chat_template("{{ messages }}")
    names = {theirs: ours for ours, theirs in NAMES.items()}
    for name, weight in model.state_dict().items():
        if name == leave_out or (name == "lm_head.weight" and arch.is_tied):
            continue
        stem, _, part = name.rpartition(".")
        if stem.startswith("model.layers."):
            number, _, stem = stem.removeprefix("model.layers.").partition(".")
            to = f"blk.{number}.{names[stem]}.{part}"
        else:
            to = f"{names[stem]}.{part}"
        if family == "llama" and "q_proj" in name:
            weight = interleaved(weight, arch.num_heads)
        elif family == "llama" and "k_proj" in name:
            weight = interleaved(weight, arch.num_kv_heads)
        data = weight.float().numpy()
        if data.ndim == 2 and kind != GGMLQuantizationType.F32:
            writer.add_tensor(to, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(to, data)
    if arch.rope_scaling:
        plain = rope_frequencies(Architecture.from_config({"model_type": "llama", **SIZES}))
        writer.add_tensor("rope_freqs.weight", (plain / rope_frequencies(arch)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def random_model(family: str = "llama", **config: Any) -> LanguageModel:
    torch.manual_seed(7)
    model = build(Architecture.from_config(SIZES | {"model_type": family} | config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((torch.randn(parameter.shape) * 0.2).bfloat16())
    return model


def imported(file: Path, folder: Path) -> Imported:
    return import_gguf(file, folder)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"tie_word_embeddings": True, "rope_scaling": LLAMA3}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"tie_word_embeddings": False}),
    ],
)
def test_a_model_comes_back_bit_by_bit(family: str, config: dict[str, Any], tmp_path: Path) -> None:
    model = random_model(family, **config)
    found = imported(written(tmp_path / "m.gguf", model, family), tmp_path / "m")
    assert found.kinds == {"F32": len(model.state_dict()) - bool(config["tie_word_embeddings"])}
    assert not found.is_dequantised
    checkpoint = verify_checkpoint(tmp_path / "m")
    assert found.version == checkpoint.version
    back = load_model(checkpoint)
    assert back.arch == model.arch
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name


def test_quantised_weights_are_what_the_package_makes_of_them(tmp_path: Path) -> None:
    model = random_model(tie_word_embeddings=True)
    kind = GGMLQuantizationType.Q8_0
    found = imported(written(tmp_path / "m.gguf", model, kind=kind), tmp_path / "m")
    assert found.is_dequantised and found.kinds == {"F32": 5, "Q8_0": 15}
    weight = model.state_dict()["model.layers.1.mlp.up_proj.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind)
    back = load_model(verify_checkpoint(tmp_path / "m")).state_dict()
    got = back["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(got, torch.from_numpy(expected.astype(np.float32)).bfloat16().float())


def test_the_tokenizer_reads_as_the_one_that_was_stored(tmp_path: Path) -> None:
    file = written(tmp_path / "m.gguf", random_model(), **{"tokenizer.pre": "default"})
    imported(file, tmp_path / "m")
    ours, theirs = OurTokenizer(tmp_path / "m"), byte_level(bos=False)
    for text in ("Natalia sold 48 clips in May.", "3 + 4 = 7\n#### 72", "naïve ½ 🐈"):
        ids = ours.encode(text)
        assert ours.decode(ids) == text
        assert ids == theirs.encode(text).ids
    assert ours.end_ids == (3,) and ours.special_ids == {0, 1, 2, 3}
    said = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert said["chat_template"] == "{{ messages }}" and said["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize(
    ("name", "digits"),
    [("default", ["24"]), ("smollm", ["2", "4"]), ("qwen2", ["2", "4"]), ("llama-bpe", ["24"])],
)
def test_digits_are_cut_as_the_family_cuts_them(
    name: str, digits: list[str], tmp_path: Path
) -> None:
    file = written(tmp_path / "m.gguf", random_model(), **{"tokenizer.pre": name})
    imported(file, tmp_path / "m")
    fast = Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    assert fast.encode("24", add_special_tokens=False).tokens == digits
    assert (fast.encode("24").ids[0] == 0) == (name == "llama-bpe")  # opens a text by itself


def test_sentencepiece_joins_the_best_scored_neighbours() -> None:
    tokens = ["<unk>", "<s>", "</s>", "▁", "a", "b", "c", "ab", "bc", "▁abc", "abc", "<0x0A>"]
    scores = [0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -4.0, -3.0, 0.0]
    tokenizer, config = tokenizer_files(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": scores,
            "tokenizer.ggml.token_type": [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )
    assert tokenizer.encode("abc").tokens == ["<s>", "▁abc"]
    assert tokenizer.encode("abab\n", add_special_tokens=False).tokens == [
        *("▁", "ab", "ab", "<0x0A>")
    ]
    assert tokenizer.encode("bbc", add_special_tokens=False).tokens == ["▁", "b", "bc"]
    assert tokenizer.decode(tokenizer.encode("abc ab").ids) == "abc ab"
    assert config["bos_token"] == "<s>" and config["eos_token"] == "</s>"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"family": "gemma"}, "family 'gemma'"),
        ({"leave_out": "model.layers.1.mlp.up_proj.weight"}, "not there"),
        ({"expert_count": 8}, "experts"),
        ({"rope.scaling.type": "yarn"}, "'yarn'"),
        ({"rope.scaling.type": "linear"}, "without 'factor'"),
        ({"embedding_length": "wide"}, "its width"),
        ({"attention.key_length": "16"}, "head_dim"),
        ({"attention.head_count_kv": 3}, "key-value heads"),
        ({"block_count": 3}, "not there"),
        ({"block_count": 100_000}, "num_hidden_layers"),
        ({"feed_forward_length": 97}, "expected"),
        ({"tokenizer.pre": "tekken"}, "'tekken'"),
        ({"tokenizer.eos": 4_000}, "eos"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_nothing_left(
    more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    file = written(tmp_path / "m.gguf", random_model(), **more)
    with pytest.raises(CheckpointError, match=words) as refused:
        imported(file, tmp_path / "m")
    assert refused.value.fix and str(file) in refused.value.message
    assert list(tmp_path.iterdir()) == [file]


def test_a_broken_file_is_refused_wherever_it_breaks(tmp_path: Path) -> None:
    whole = written(tmp_path / "m.gguf", random_model()).read_bytes()
    file = tmp_path / "broken.gguf"
    rng = np.random.default_rng(3)
    cuts = [0, 3, 4, 8, 23, 24, *rng.integers(25, len(whole) - 1, 60).tolist()]
    for cut in cuts:
        file.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            imported(file, tmp_path / "m")
    for _ in range(300):  # one word of the part that is not weights, replaced by a forged one
        at = int(rng.integers(0, 12_000))
        forged = (0, 1, 2**31, 2**63, 2**64 - 1)[int(rng.integers(5))]
        file.write_bytes(whole[:at] + struct.pack("<Q", forged) + whole[at + 8 :])
        try:
            imported(file, tmp_path / "m")
        except CheckpointError:
            assert not (tmp_path / "m").exists()
        else:  # in a text, where any bytes do
            for path in (tmp_path / "m").iterdir():
                path.unlink()
            (tmp_path / "m").rmdir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.gguf", "m.gguf"]


def test_a_list_that_is_longer_than_the_file_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    key = b"tokenizer.ggml.tokens"
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key
    for kind in (8, 0, 9, 77):
        file.write_bytes(head + struct.pack("<IIQ", 9, kind, 2**60))
        with pytest.raises(CheckpointError, match="broken"), gguf_file(file):
            pass


def test_a_folder_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    file = written(tmp_path / "m.gguf", random_model())
    (tmp_path / "m").mkdir()
    with pytest.raises(UsageError, match="already there"):
        imported(file, tmp_path / "m")
    assert list((tmp_path / "m").iterdir()) == []


def test_a_disk_without_room_is_said_with_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "m.gguf", random_model())

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("agent.checkpoints.gguf_import.save_file", full)
    with pytest.raises(ResourceError, match="bytes"):
        imported(file, tmp_path / "m")
    assert list(tmp_path.iterdir()) == [file]
