"""`ratchet evaluate --corpus`: of one policy, and of all that a store measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.custody import as_new
from agent.cli.app import app
from agent.cli.commands import evaluate_corpus
from agent.config.load import load_config
from agent.tasks.registry import open_task
from search.errors import NotFoundError, UsageError
from store.checkpoints import register
from store.database import open_store
from store.evaluations import Answered, Evaluation, EvaluationKey, record_evaluation
from tests.agent.conftest import write_checkpoint

NUM_POLICIES = 5


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A store whose policies were right on 0 to 4 of five problems, and a corpus."""
    (tmp_path / "corpus.txt").write_text("8-4+1\n4+1\n5\n")
    problems = open_task(load_config({"task": "expressions"})[0]).held_out(5, 1)
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    with store.session() as session:
        for right in range(NUM_POLICIES):
            path = write_checkpoint(tmp_path / str(right), seed=right)
            checkpoint = verify_checkpoint(path)
            register(session, as_new("policy", checkpoint))
            items = {p.id: Answered("1", i < right) for i, p in enumerate(problems)}
            key = EvaluationKey({"policy": checkpoint.version}, {"mode": "greedy"}, "b")
            found = Evaluation("greedy", items, 10, 1.0, (0.0, 1.0))
            record_evaluation(session, key, found, None, problems, "expressions")
    store.close()
    return tmp_path


def told(folder: Path, capsys: pytest.CaptureFixture[str], task: str = "expressions") -> Any:
    flags = {"task": task, "store": f"sqlite:///{folder}/store.db", "hosting.hosting": "inline"}
    evaluate_corpus.run(load_config(flags)[0], str(folder / "corpus.txt"), True, True)
    return json.loads(capsys.readouterr().out)


def test_every_measured_policy_stands_beside_its_accuracy(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(measured, capsys)
    assert [row["accuracy"] for row in found["policies"]] == [
        {"correct": right, "n": 5} for right in range(NUM_POLICIES)
    ]
    bits = [row["bits_per_character"] for row in found["policies"]]
    assert len(set(bits)) == NUM_POLICIES and min(bits) > 1
    related = found["correlation"]
    assert -1 <= related["low"] <= related["r"] <= related["high"] <= 1


def test_policies_whose_weights_are_gone_are_left_out_and_named(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for gone in ("0", "3"):
        shutil.rmtree(measured / gone)
    found = told(measured, capsys)
    assert [row["accuracy"]["correct"] for row in found["policies"]] == [1, 2, 4]
    assert found["correlation"] is None
    for left in ("1", "2", "4"):
        shutil.rmtree(measured / left)
    with pytest.raises(NotFoundError, match="has its weights"):
        told(measured, capsys)


def test_policies_of_another_task_are_not_asked(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NotFoundError, match="no policy of task 'stories'"):
        told(measured, capsys, "stories")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mode", "greedy"], "--corpus reads a text and does not take --mode"),
        (["--compare", "a", "b"], "--corpus reads a text and does not take --compare"),
        (
            ["--versions", "--policy", "x"],
            "--versions measures a store's policies and does not take --policy",
        ),
    ],
)
def test_an_option_that_has_no_part_in_a_corpus_is_refused_by_name(
    flags: list[str], said: str
) -> None:
    done = CliRunner().invoke(app, ["evaluate", "--corpus", "x", *flags])
    assert isinstance(done.exception, UsageError) and done.exception.message == said
