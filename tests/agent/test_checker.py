"""A checker works out what steps claim, refutes what differs, and proves nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.checker import Checker, concluded
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.model_refs import ModelRef
from agent.engine.requests import Completion, CompletionRequest, Generated
from agent.engine.tokenizer import Tokenizer
from agent.training.checker import JudgedText, measured_checker
from critics.working import Question, worked
from search.score import Finding
from tests.agent.conftest import write_checkpoint


class Writer:
    """Answers like one who can reckon, but for what it was told to answer."""

    def __init__(self, tokenizer: Tokenizer, told: dict[str, str]) -> None:
        self.tokenizer = tokenizer
        self.told = told
        self.calls: list[list[str]] = []

    def completions(self, ref: ModelRef, requests: Sequence[CompletionRequest]) -> list[Completion]:
        asked = [self.tokenizer.decode(list(r.prefix)).strip() for r in requests]
        self.calls.append(asked)
        return [self._text(question) for question in asked]

    def _text(self, question: str) -> Completion:
        text = self.told.get(question, worked(question))
        tokens = (*self.tokenizer.encode(text), *([] if text == "" else [1]))
        return Completion(Generated(tokens, (0.0,) * len(tokens), "end" if text else "length"))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return Tokenizer(write_checkpoint(tmp_path / "c"))


def checker(tmp_path: Path, tokenizer: Tokenizer, **told: str) -> tuple[Checker, Writer]:
    hosts: Any = Writer(tokenizer, {k.replace("_", "+"): v for k, v in told.items()})
    return Checker(hosts, verify_checkpoint(tmp_path / "c").ref("checker"), tokenizer), hosts


def test_it_refutes_what_it_finds_otherwise_and_is_silent_of_the_rest(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    found, _ = checker(tmp_path, tokenizer, **{"9_9": ""})
    right, wrong = Question("19+28", "47"), Question("19+38", "47")
    assert found.finding((right,)) == Finding(None, "worked out again")
    assert found.finding((right, wrong)) == Finding(False, "worked out again: 19+38 is 57")
    assert found.finding(()) == Finding(None, "nothing to work out")
    assert found.finding(None).is_sound is False  # no step from what stands before it
    # A text that never ended says nothing, and so does a question of other characters.
    assert found.finding((Question("9+9", "1"),)).is_sound is None
    assert found.finding((Question("9+x", "1"),)).is_sound is None


def test_each_question_is_worked_out_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    found, hosts = checker(tmp_path, tokenizer)
    found.learn(["1+2", "3*4", "1+2"])
    assert hosts.calls == [["1+2", "3*4"]]
    spent = found.num_tokens
    found.finding((Question("3*4", "12"), Question("5+5", "10")))
    found.learn(["5+5"])
    assert hosts.calls == [["1+2", "3*4"], ["5+5"]] and found.num_tokens > spent > 0


def test_what_is_known_is_bounded(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.checker.MOST_KNOWN", 3)
    found, hosts = checker(tmp_path, tokenizer)
    assert found.learn(["1+2", "1+3"]) == ["3", "4"]
    assert found.learn(["1+4", "1+2"]) == ["5", "3"]  # all anew, and still right
    assert hosts.calls == [["1+2", "1+3"], ["1+4", "1+2"]]


def test_what_does_not_fit_its_context_is_not_asked(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "c", max_position_embeddings=64)
    found, hosts = checker(tmp_path, Tokenizer(path))
    assert found.finding((Question("123*456", "1"),)).is_sound is None
    assert not hosts.calls


def test_a_failed_text_concludes_nothing(tokenizer: Tokenizer) -> None:
    text = Generated((3, 4, 1), (0.0,) * 3, "end")
    assert concluded(tokenizer, Completion(text)) == "01"
    assert concluded(tokenizer, Completion(text, error="no memory")) == ""


def texts(*kinds: tuple[str | None, bool]) -> list[JudgedText]:
    return [
        JudgedText(None if claimed is None else (Question("1+2", claimed),), is_right)
        for claimed, is_right in kinds
    ]


def test_its_worth_is_what_it_refutes_of_wrong_texts_and_not_of_right_ones() -> None:
    judged = texts(("3", True), ("3", True), ("4", False), ("5", False), (None, False))
    report = measured_checker({"1+2": "3"}, judged)
    assert report["auc"] == 1.0 and report["answered_right"] == 1.0
    assert (report["refuted_right"], report["refuted_wrong"]) == (0.0, 1.0)
    assert (report["unread_right"], report["unread_wrong"]) == (0.0, pytest.approx(1 / 3))
    # One that finds everything else refutes the right ones, too, and is worth nothing.
    assert measured_checker({"1+2": "9"}, judged)["auc"] == 0.5
    assert measured_checker({"1+2": "9"}, judged)["answered_right"] == 0.0
    # So is one that agrees with everything, but for what is no step.
    assert measured_checker({}, texts(("3", True), ("4", False)))["auc"] == 0.5
    assert measured_checker({"1+2": "3"}, texts(("3", True)))["auc"] is None  # one kind only
    assert measured_checker({}, [])["answered_right"] is None
