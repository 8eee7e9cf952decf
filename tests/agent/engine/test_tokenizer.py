"""Texts of parts: whatever the vocabulary, they add up to the text of the whole."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from agent.engine.tokenizer import Tokenizer
from search.errors import CheckpointError, TaskError
from tests.agent.chat import byte_level, sentencepiece_like

TEXT = "so cats = 5+5\n5 cats so 🐈🐈, naïve façade → ½\n #### 10"


def opened(folder: Path, fast: FastTokenizer) -> Tokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    fast.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    return Tokenizer(folder)


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    fast = byte_level() if request.param == "byte-level" else sentencepiece_like()
    return opened(tmp_path_factory.mktemp(request.param), fast)


def test_every_cut_loses_no_space_and_splits_no_character(tokenizer: Tokenizer) -> None:
    prompt, ids = tokenizer.encode("Problem: q"), tokenizer.encode(TEXT, is_start=False)
    whole = tokenizer.decode([*prompt, *ids])[len(tokenizer.decode(prompt)) :]
    assert len(ids) > 20
    for cut in range(len(ids) + 1):
        parts = [ids[:cut], ids[cut:]]
        texts = [
            tokenizer.decode_after(prompt, parts[0]),
            tokenizer.decode_after([*prompt, *parts[0]], parts[1]),
        ]
        assert "".join(texts) == whole
        assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\ufffd"), max_size=40))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_token_at_a_time_gives_the_same_text(tokenizer: Tokenizer, text: str) -> None:
    prompt, ids = tokenizer.encode("q"), tokenizer.encode(text, is_start=False)
    told, before = "", list(prompt)
    for i in ids:
        told += tokenizer.decode_after(before, [i])
        before.append(i)
    assert told == tokenizer.decode(before)[len(tokenizer.decode(prompt)) :]


def test_a_nul_is_shown_by_its_symbol_and_the_tokens_stay(tmp_path: Path) -> None:
    """PostgreSQL refuses a NUL in a text; what a model writes is stored whatever it writes."""
    tokenizer = opened(tmp_path, byte_level())
    ids = tokenizer.encode("a\0b", is_start=False)
    assert tokenizer.decode(ids) == "a\N{SYMBOL FOR NULL}b"
    assert tokenizer.fast.decode(ids) == "a\0b"


def forged(folder: Path, **parts: Any) -> Tokenizer:
    """The byte-level vocabulary with other parts of tokenizer.json."""
    folder.mkdir(exist_ok=True)
    content = json.loads(byte_level().to_str()) | parts
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 1}))
    return Tokenizer(folder)


def test_no_text_is_cut_or_filled_up_because_the_file_says_so(tmp_path: Path) -> None:
    plain = forged(tmp_path / "plain").encode(TEXT)
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"}
    found = forged(tmp_path / "both", truncation=truncation, padding=padding)
    assert found.encode(TEXT) == plain
    assert found.encode_template([(TEXT, False)])[-len(plain) :] == plain


def test_what_the_library_panics_at_is_a_message(tmp_path: Path) -> None:
    found = forged(tmp_path, decoder={"type": "Strip", "content": "a", "start": 5, "stop": 5})
    with pytest.raises(CheckpointError, match="decode"):
        found.decode(found.encode("cats", is_start=False))
    charsmap = base64.b64encode(b"\4\0\0\0\xff\xff\xff\xff" + b"x" * 20).decode()
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    with pytest.raises(TaskError, match="spell"):
        forged(tmp_path, normalizer=normalizer).encode("cats")


def test_a_token_beyond_the_rows_of_the_model_is_refused_before_weights_are_read(
    tmp_path: Path,
) -> None:
    size = forged(tmp_path).vocab_size
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"eos_token_id": 1, "vocab_size": size}))
    assert Tokenizer(tmp_path).vocab_size == size
    config.write_text(json.dumps({"eos_token_id": 1, "vocab_size": size - 1}))
    with pytest.raises(CheckpointError, match=f"{size} tokens, the model {size - 1}"):
        Tokenizer(tmp_path)
    config.write_text(json.dumps({"eos_token_id": 1, "vocab_size": 2 * size}))
    assert Tokenizer(tmp_path).vocab_size == size  # rows that pad
    config.write_text(json.dumps({"eos_token_id": 1, "vocab_size": 2 * size + 1}))
    with pytest.raises(CheckpointError, match=f"{size} tokens, the model {2 * size + 1}"):
        Tokenizer(tmp_path)  # another model's
    config.write_text(json.dumps({"eos_token_id": 1, "vocab_size": size}))
    # One token whose number is far beyond their count.
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["vocab"]["zz"] = 5_000
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    config.write_text(json.dumps({"eos_token_id": 1, "vocab_size": size + 100}))
    with pytest.raises(CheckpointError, match="5001 tokens"):
        Tokenizer(tmp_path)
