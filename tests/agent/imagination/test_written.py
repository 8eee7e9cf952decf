"""Problems that a model writes: judged by the same model, filtered, and named by their scheme."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.checkpoints.model_refs import ModelRef, ModelSet
from agent.config.load import load_config
from agent.engine.requests import Completion, CompletionRequest, Generated, ScoreRequest
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.imagination.imagine import Imagination, Wanted
from agent.imagination.written import TEMPLATES, Writer, cleaned
from agent.search_models import Models, ModelSettings
from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.rewritings import SYSTEM_MESSAGES
from search.errors import UsageError
from tests.agent.conftest import write_checkpoint

ROWS = [
    {
        "question": f"Ann has {n} apples. She buys {n + 3} more. How many has she?",
        "answer": f"#### {2 * n + 3}",
    }
    for n in range(20, 60)
]


class Scribe(InlineHosts):
    """Answers as a writer would: every third text is no problem, every fourth one ill posed."""

    def __init__(self) -> None:
        super().__init__(HostSettings())
        self.asked: list[str] = []

    def completions(
        self, policy: ModelRef, requests: Sequence[CompletionRequest]
    ) -> list[Completion]:
        self.asked += [bytes(r.prefix).decode() for r in requests]
        texts = []
        for i, _ in enumerate(requests):
            said = f" Ben sold {i + 70} pens on day one. How many pens are left?\n\nAnswer: 3"
            said = " I cannot help." if i % 3 == 2 else said
            texts.append(Completion(Generated(tuple(said.encode()), (), "end")))
        return texts

    def logprobs(
        self, policy: ModelRef, requests: Sequence[ScoreRequest]
    ) -> list[tuple[float, ...]]:
        found = []
        for r in requests:
            text = bytes(r.tokens).decode()
            is_yes = text.endswith("yes")
            is_ill = "Ben sold 7" in text and int(text.split("Ben sold ")[1].split()[0]) % 4 == 0
            found.append((-1.0 if is_yes != is_ill else -2.0,))
        return found


class Bytes:
    """A tokenizer of bytes."""

    def encode(self, text: str, is_start: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Any) -> str:
        return bytes(tokens).decode()


@pytest.fixture
def task(tmp_path: Path) -> Jsonl:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    return Jsonl(Files(str(file)))


def models_holding(
    num_positions: int, task: Jsonl, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Models:
    """Models whose writer holds so many tokens."""
    config, _ = load_config({})
    policy = write_checkpoint(folder / "policy")
    known = json.loads((policy / "config.json").read_text())
    known["max_position_embeddings"] = num_positions
    (policy / "config.json").write_text(json.dumps(known))
    ref = ModelRef.at("policy", "v", str(policy))
    made = Models(Scribe(), ModelSet({"policy": ref}), task, ModelSettings.of(config))
    made.tokenizer = Bytes()  # type: ignore[assignment]
    monkeypatch.setattr("agent.imagination.judge.Tokenizer", lambda _: Bytes())
    return made


@pytest.fixture
def models(task: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Models:
    return models_holding(2048, task, tmp_path, monkeypatch)


def test_what_is_too_long_for_the_writer_is_refused_and_not_asked(
    task: Jsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = models_holding(64, task, tmp_path, monkeypatch)
    found = Writer(short, short.policy, seed=1).write("lamini", task.seeds(10, 0), 5)
    assert [w.refused for w in found] == ["no problem"] * 5
    assert short.hosts.asked == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("scheme", sorted(TEMPLATES))
def test_a_written_problem_passes_its_form_and_its_judge(
    models: Models, task: Jsonl, scheme: str
) -> None:
    writer = Writer(models, models.policy, seed=1)
    parents = task.seeds(10, 0)
    found = writer.write(scheme, parents, 12)
    assert [w.refused for w in found].count("no problem") == 4
    assert 0 < [w.refused for w in found].count("judge") < 8
    good = [w for w in found if not w.refused]
    assert all(w.text.endswith("left?") and "Answer" not in w.text for w in good)
    asked = models.hosts.asked  # type: ignore[attr-defined]
    assert len(asked) == (24 if scheme == "orca-explain" else 12)
    assert all(any(p.text in prompt for p in parents) for prompt in asked)
    assert [w.text for w in writer.write(scheme, parents, 12)] == [w.text for w in found]


def test_imagination_takes_what_passed_and_counts_what_did_not(models: Models, task: Jsonl) -> None:
    writer = Writer(models, models.policy, seed=1)
    found = Imagination(task, task.held_out(5, 0)).imagine(
        task.seeds(20, 0),
        task.seeds(100, 0),
        Wanted(30, 1, 0, [lambda parents, num: writer.write("evol-widen", parents, num)], 12),
    )
    written = [p for p in found.problems if p.origin.startswith("evol-widen:")]
    assert len(written) == found.made["evol-widen"] > 2
    assert all(p.answer is None for p in written)
    assert found.refused["evol-widen: no problem"] == 4 and found.refused["evol-widen: judge"] > 0


def test_a_system_message_is_another_wording_with_the_same_answer(task: Jsonl) -> None:
    (operator,) = [o for o in task.operators if o.name == "orca"]
    assert operator.keeps_answer
    problem = task.seeds(1, 0)[0]
    import random

    other = operator.apply(problem, random.Random(0))
    assert other is not None and other.answer == problem.answer
    assert other.text.startswith(SYSTEM_MESSAGES) and other.text.endswith(problem.text)
    assert operator.apply(other, random.Random(0)) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "  A farmer has 3 cows and buys 4. How many has he?\n\nmore",
            "A farmer has 3 cows and buys 4. How many has he?",
        ),
        ("Too short?", ""),
        ("No question is asked in this long text.", ""),
        ("", ""),
    ],
)
def test_only_the_first_paragraph_that_asks_counts(text: str, found: str) -> None:
    assert cleaned(text, "parent") == found
    assert cleaned(found, found) == ""


def test_schemes_are_for_tasks_whose_problems_can_be_written() -> None:
    with pytest.raises(UsageError, match="makes its own problems"):
        load_config({"imagination.schemes": '["lamini"]'})
