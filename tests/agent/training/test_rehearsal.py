"""What a policy was taught with is what is replayed to it, and nothing else."""

import json
from pathlib import Path

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import embedded_path
from agent.checkpoints.publish import DEMONSTRATIONS, publish
from agent.checkpoints.weights import load_model
from agent.config.settings import Config, PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.prompts import Prompts
from agent.tasks.registry import open_task
from agent.training.rehearsal import drawn, read_demonstrations, write_demonstrations
from search.errors import CheckpointError

TASK = open_task(Config(task="stories"))


def policy() -> Path:
    path = embedded_path("stories", "policy")
    assert path is not None
    return path


def prompts() -> Prompts:
    return Prompts(TASK, Tokenizer(policy()), PromptSettings())


def test_the_embedded_policy_keeps_exactly_the_demonstrations_it_was_built_from() -> None:
    notes = verify_checkpoint(policy()).notes
    built = TASK.demonstrations(notes["recipe"]["demonstrations"], notes["seed"])
    lines = (policy() / DEMONSTRATIONS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    kept = {(r["problem"], tuple(r["steps"])) for r in rows}
    assert kept == {(d.problem.text, d.steps) for d in built}


def test_no_replayed_problem_is_held_out() -> None:
    for name in ("stories", "expressions"):
        task = open_task(Config(task=name))
        path = embedded_path(name, "policy")
        assert path is not None
        held_out = {p.text for p in task.held_out(600, 0)}
        lines = (path / DEMONSTRATIONS).read_text(encoding="utf-8").splitlines()
        assert not held_out & {json.loads(line)["problem"] for line in lines}


def test_written_demonstrations_come_back_as_the_rows_that_they_are(tmp_path: Path) -> None:
    demonstrations = TASK.demonstrations(5, 3)
    write_demonstrations(tmp_path, demonstrations, 0)
    tokenizer = prompts().tokenizer
    found = read_demonstrations(tmp_path, prompts(), 1000)
    whole = {TASK.prompt(d.problem.text) + "".join(d.steps) for d in demonstrations}
    assert {tokenizer.decode(e.tokens[:-1]) for e in found} == whole
    assert all(e.tokens[-1] == tokenizer.end_ids[0] for e in found)
    assert read_demonstrations(tmp_path / "elsewhere", prompts(), 1000) == ()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "no problem with a list of steps"),
        ('{"problem": "Ann has 3 apples.", "steps": []}', "no problem with a list of steps"),
        ('{"problem": "Ann has 3 apples.", "steps": [7]}', "a step that is not a string"),
    ],
)
def test_a_demonstration_that_cannot_be_learned_is_named_by_its_line(
    tmp_path: Path, line: str, reason: str
) -> None:
    write_demonstrations(tmp_path, TASK.demonstrations(2, 3), 0)
    with (tmp_path / DEMONSTRATIONS).open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(CheckpointError, match=f"line 3: {reason}"):
        read_demonstrations(tmp_path, prompts(), 1000)


def test_a_demonstration_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    write_demonstrations(tmp_path, TASK.demonstrations(1, 3), 0)
    with pytest.raises(CheckpointError, match=r"line 1: .* the policy holds 10"):
        read_demonstrations(tmp_path, prompts(), 10)


def test_demonstrations_go_with_a_policy_and_with_no_other_model(tmp_path: Path) -> None:
    parent = verify_checkpoint(policy())
    decoder = load_model(parent)
    made = publish(decoder, parent, tmp_path, "policy", {})
    assert (made.path / DEMONSTRATIONS).read_bytes() == (policy() / DEMONSTRATIONS).read_bytes()
    other = publish(decoder, parent, tmp_path, "process", {})
    assert not (other.path / DEMONSTRATIONS).exists()


def test_replay_draws_no_demonstration_twice_and_others_for_another_seed() -> None:
    examples = read_demonstrations(policy(), prompts(), 1000)
    first, second = drawn(examples, 100, 1), drawn(examples, 100, 2)
    assert len(set(first)) == 100 and set(first) <= set(examples)
    assert first == drawn(examples, 100, 1) and set(first) != set(second)
    assert sorted(drawn(examples, 10**6, 1), key=str) == sorted(examples, key=str)
