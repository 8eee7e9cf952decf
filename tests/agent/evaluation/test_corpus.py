"""Bits per character of a corpus, as one stream under a window that moves."""

import json
import math
from pathlib import Path

import pytest

from agent.engine.requests import ScoreRequest
from agent.evaluation import corpus
from agent.evaluation.corpus import corpus_compression, read_corpus, windows
from agent.evaluation.intervals import correlation
from agent.progress import Silent
from search.errors import RatchetError, TaskError, UsageError
from tests.agent.test_search_models import models_with

TEXT = "8-4+1\n4+1\n5\n"


def test_every_token_but_the_first_counts_once_with_what_is_before_it_in_its_window() -> None:
    for num, window, stride in ((5, 8, 3), (8, 8, 3), (9, 8, 3), (50, 8, 3), (4_000, 1_900, 512)):
        found = windows(num, window, stride)
        counted = [i for _, first, end in found for i in range(first, end)]
        assert counted == list(range(1, num))
        assert all(end - start <= window for start, _, end in found)
        assert all(end - first <= stride for _, first, end in found[1:])
    assert windows(4_000, 1_900, 512)[:3] == [
        (0, 1, 1_900),
        (512, 1_900, 2_412),
        (1_024, 2_412, 2_924),
    ]


def test_a_stream_in_one_window_has_the_log_likelihood_of_its_documents_end_to_end() -> None:
    models = models_with()
    stream = [*models.tokenizer.encode(TEXT), *models.tokenizer.encode("1+2\n")]
    (found,) = models.hosts.logprobs(models.policy, [ScoreRequest(tuple(stream), 1)])
    report = corpus_compression(models, [TEXT, "1+2\n"], Silent())
    characters = len(TEXT) + 4
    assert report.bits_per_character == pytest.approx(-sum(found) / math.log(2) / characters)
    assert (report.num_tokens, report.num_characters) == (len(stream), characters)
    assert (report.num_documents, report.is_comparable) == (2, False)


def test_a_short_context_moves_the_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = models_with()
    documents = [w.problem.text + "\n" + "".join(w.steps) for w in models.task.worked(8, 0)]
    whole = corpus_compression(models, documents, Silent())
    monkeypatch.setattr(corpus, "WINDOW", 19)
    monkeypatch.setattr(corpus, "STRIDE", 5)
    short = corpus_compression(models, documents, Silent())
    assert (short.window, short.stride) == (19, 5)
    assert short.bits_per_character != whole.bits_per_character
    stream = [token for text in documents for token in models.tokenizer.encode(text)]
    asked = [
        ScoreRequest(tuple(stream[start:end]), first - start)
        for start, first, end in windows(len(stream), 19, 5)
    ]
    nats = -sum(map(sum, models.hosts.logprobs(models.policy, asked)))
    characters = sum(map(len, documents))
    assert short.bits_per_character == pytest.approx(nats / math.log(2) / characters)


def test_what_is_no_corpus_is_refused_by_name(tmp_path: Path) -> None:
    models = models_with()
    cases: dict[str, tuple[bytes, str]] = {
        "empty.txt": (b"", "has no text"),
        "latin.txt": ("é".encode("latin-1"), "no UTF-8"),
        "rows.jsonl": (b'{"question": "1+1"}\n', "line 1 has no text and no content"),
        "broken.jsonl": (b'{"text": "1+1"}\n{"text"\n', "line 2 is not JSON"),
        "numbers.jsonl": (b'{"text": 3}\n', "line 1 has no text"),
    }
    for name, (raw, why) in cases.items():
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(RatchetError, match=why):
            read_corpus(str(tmp_path / name))
    with pytest.raises(UsageError, match="there is no file"):
        read_corpus(str(tmp_path / "gone.txt"))
    for name in ("~nobody-at-all/a.txt", "a" * 5_000, "a\0b", str(tmp_path)):
        with pytest.raises(UsageError, match="there is no file"):
            read_corpus(name)
    with pytest.raises(UsageError, match="1 token long"):
        corpus_compression(models, ["1"], Silent())
    with pytest.raises(TaskError, match="cannot spell"):
        corpus_compression(models, ["Once upon a time"], Silent())


def test_rows_of_a_file_are_documents_and_other_files_are_one(tmp_path: Path) -> None:
    rows = tmp_path / "a.jsonl"
    rows.write_text(
        "\n".join(json.dumps(r) for r in ({"text": "1"}, {"content": "2"}, {"text": ""}))
    )
    assert read_corpus(str(rows)) == ["1", "2"]
    text = tmp_path / "a.md"
    text.write_text("1\n\n2")
    assert read_corpus(str(text)) == ["1\n\n2"]


def test_a_correlation_has_its_interval_or_is_none() -> None:
    found = correlation([1, 2, 3, 4, 5], [5, 4, 3.5, 2, 1])
    assert found is not None
    assert found == pytest.approx((-0.9901, -0.9994, -0.8533), abs=1e-4)
    assert correlation([1, 2, 3], [1, 2, 3]) is None
    assert correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    assert correlation([1, 2, 3, 4], [2, 4, 6, 8]) == (1, 1, 1)
    assert correlation([1, 2, 3, math.nan], [1, 2, 4, 3]) is None
    assert correlation([1, 2, 3, math.inf], [1, 2, 4, 3]) is None
