"""Texts of parts: whatever the vocabulary, they add up to the text of the whole."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from agent.engine.tokenizer import Tokenizer
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
