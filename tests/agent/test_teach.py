"""Teaching the form of answers: what is learned, recorded, resumed and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.checkpoints.adapter_files import ADAPTER_WEIGHTS
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.config.load import load_config
from agent.engine.tokenizer import Tokenizer
from agent.progress import Silent
from agent.prompts import prompts_at
from agent.tasks.jsonl import Files, Jsonl
from agent.teach import Course, Taught, lessons_of, teach
from agent.training import resume
from agent.training.recipe import pretrained_rate
from search.errors import TaskError, UsageError
from store.checkpoints import find_checkpoint
from store.database import open_store, read_store
from store.evaluations import samples_of
from tests.agent.chat import write_chat_model
from tests.agent.cli.test_cli import typed

__all__ = ["typed"]


def row(a: int, b: int) -> dict[str, Any]:
    """A problem with a worked answer, as GSM8K writes them."""
    worked = f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}"
    return {"question": f"What is {a} plus {b}?", "answer": f"{worked}\n#### {a + b}"}


ROWS = [row(a, b) for a in range(1, 8) for b in range(1, 8)]


def files(folder: Path, rows: list[dict[str, Any]] = ROWS) -> tuple[Path, Path]:
    problems, model = folder / "rows.jsonl", folder / "model"
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not model.exists():
        write_chat_model(model)
    return problems, model


def taught(folder: Path, course: Course, out: str = "out", **more: Any) -> Taught:
    problems, model = files(folder)
    flags = {
        "task": "jsonl",
        "problems": str(problems),
        "policy": str(model),
        "store": f"sqlite:///{folder}/s.db",
        "hosting.hosting": "inline",
        "hosting.text_tokens": 16,
    }
    store = open_store(flags["store"])
    try:
        return teach(load_config(flags | more)[0], folder / out, course, store, Silent())
    finally:
        store.close()


@pytest.mark.round
def test_a_taught_policy_finds_worked_answers_likely_and_its_lineage_is_stored(
    tmp_path: Path,
) -> None:
    course = Course(epochs=8, batch_size=8, learning_rate=3e-3, num_problems=4)
    found = taught(tmp_path, course)
    assert found.report["last_loss"] < 0.4 * found.report["first_loss"]
    assert found.before is not None and found.after is not None
    assert found.before.n == found.after.n == 4
    checkpoint = verify_checkpoint(tmp_path / "out")
    parent = verify_checkpoint(tmp_path / "model")
    assert checkpoint.version == found.checkpoint.version != parent.version
    assert checkpoint.notes["parent"] == parent.version
    assert (tmp_path / "out" / "chat_template.jinja").is_file()
    kept = (tmp_path / "out" / "demonstrations.jsonl").read_text().splitlines()
    assert len(kept) > 30 and "<<" not in kept[0]
    store = read_store(f"sqlite:///{tmp_path}/s.db")
    with store.session() as session:
        row = find_checkpoint(session, "policy", checkpoint.version)
        assert row is not None and row.parent_version == parent.version
        assert row.report["method"] == "sft" and row.path == str(tmp_path / "out")
        texts = samples_of(session, checkpoint.version, "greedy", None, 10)
    assert len(texts) == 4
    assert not list(tmp_path.glob(".teaching*"))
    same = taught(tmp_path, course)  # the command again: nothing is left to do
    assert same.checkpoint.version == checkpoint.version and same.seconds == 0
    with pytest.raises(UsageError, match="already there"):
        taught(tmp_path, Course(epochs=7, batch_size=8, learning_rate=3e-3, num_problems=4))
    again = taught(tmp_path, course, "again")
    assert again.checkpoint.version == checkpoint.version  # the same arguments, the same weights


@pytest.mark.round
def test_an_adapter_is_taught_through_trl_and_kept_beside_the_policy(tmp_path: Path) -> None:
    course = Course(epochs=1, batch_size=8, learning_rate=3e-3, num_problems=0)
    more = {"training.trainer": "trl", "training.lora_rank": 4}
    found = taught(tmp_path, course, **more)
    assert found.report["trainer"] == "trl" and found.report["lora_rank"] == 4
    assert (tmp_path / "out-adapter" / "adapter_model.safetensors").is_file()
    assert not list(tmp_path.glob(".teaching*"))


def test_adapters_are_taught_on_the_policy_as_it_lies(tmp_path: Path) -> None:
    course = Course(epochs=2, batch_size=8, learning_rate=3e-3, num_problems=0)
    found = taught(tmp_path, course, **{"training.lora_rank": 4})
    assert found.report["lora_rank"] == 4 and found.checkpoint.shards == (ADAPTER_WEIGHTS,)
    assert found.checkpoint.whole.path.name == "model"
    again = taught(tmp_path, course, "again", **{"training.lora_rank": 4})
    assert again.checkpoint.version == found.checkpoint.version


def test_what_was_begun_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    course = Course(epochs=4, batch_size=8, learning_rate=3e-3, num_problems=0)
    whole = taught(tmp_path, course, "whole")
    monkeypatch.setattr(resume, "EVERY_S", 0.0)
    steps: list[int] = []
    save = resume.Resume.save

    def killed(self: resume.Resume, *given: Any) -> None:
        self.every_s = 0.0
        save(self, *given)
        steps.append(len(given[3]))
        if len(steps) == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr(resume.Resume, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        taught(tmp_path, course)
    (work,) = tmp_path.glob(".teaching*")
    assert (work / "state.safetensors").is_file() and not (tmp_path / "out").exists()
    found = taught(tmp_path, course)
    assert steps[9] == 10  # the tenth step was the next one
    assert found.checkpoint.version == whole.checkpoint.version
    assert not list(tmp_path.glob(".teaching*"))


def test_lessons_have_no_annotations_and_end_with_the_answer(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "answer": "2 + 3 = <<2+3=5>>5\n#### 5"},
        {"problem": "b?", "solution": "so it is\nclear", "answer": "7"},
        {"problem": "c?", "solution": "then\n\\boxed{9}"},
    ]
    problems, model = files(tmp_path, rows * 1)
    task = Jsonl(Files(str(problems), str(problems)))
    assert task.lessons() == []  # all are held out
    other = tmp_path / "held-out.jsonl"
    other.write_text(json.dumps({"question": "z?", "answer": "#### 1"}) + "\n")
    lessons = Jsonl(Files(str(problems), str(other))).lessons()
    assert [list(lesson.steps) for lesson in lessons] == [
        ["2 + 3 = 5\n", "#### 5"],
        ["so it is\n", "clear\n", "#### 7"],
        ["then\n", "\\boxed{9}"],
    ]
    prompts = prompts_at(model, task, load_config({})[0].prompt)
    found = lessons_of(Jsonl(Files(str(problems), str(other))), prompts, 4096)
    tokenizer = Tokenizer(model)
    text = found.texts[0]
    assert tokenizer.decode(text.tokens[text.num_prompt :]) == "2 + 3 = 5\n#### 5"
    assert text.tokens[-1] in tokenizer.end_ids


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    problems, model = files(tmp_path)
    prompts = prompts_at(model, Jsonl(Files(str(problems))), load_config({})[0].prompt)
    sizes = sorted(len(t.tokens) for t in lessons_of(prompts.task, prompts, 4096).texts)
    found = lessons_of(prompts.task, prompts, sizes[-1] - 1)
    left = sum(size == sizes[-1] for size in sizes)
    assert len(found.texts) == len(sizes) - left
    assert found.notes == [f"{left} worked answers do not fit the context and are left out"]
    with pytest.raises(TaskError, match="none of"):
        lessons_of(prompts.task, prompts, 10)


def test_the_rate_falls_with_the_size_of_the_model(tmp_path: Path) -> None:
    small = verify_checkpoint(write_chat_model(tmp_path / "m"))
    assert pretrained_rate(small) == 3e-4

    class Large:
        num_parameters = 8_000_000_000

    assert pretrained_rate(Large()) == pytest.approx(3.9e-5, rel=0.01)  # type: ignore[arg-type]
    assert pretrained_rate(Large(), lora_rank=8) == pytest.approx(1.3e-4, rel=0.01)  # type: ignore[arg-type]
    assert pretrained_rate(small, lora_rank=8) == 1e-3


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--out", "model"], "already there"),
        (["--lora-rank", "9999"], "--lora-rank"),
        (["--problems", "plain.jsonl"], "no worked answers"),
        (["--policy", ""], "no policy is named"),
        (["--epochs", "nan"], "--epochs"),
        (["--task", "expressions"], "--task jsonl"),
    ],
)
def test_what_cannot_be_taught_is_refused_before_a_model_is_loaded(
    more: list[str], words: str, tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    files(tmp_path)
    (tmp_path / "plain.jsonl").write_text(
        "".join(json.dumps({"problem": f"q{i}?", "answer": "1"}) + "\n" for i in range(40))
    )
    given = {"--problems": "rows.jsonl", "--policy": "model", "--out": "out"}
    given |= dict(zip(more[::2], more[1::2], strict=True))
    code, _, said = typed("teach", *(word for pair in given.items() for word in pair))
    assert code == 2 and words in said and "Fix:" in said
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".teaching*"))


def test_a_folder_that_is_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="already there"):
        taught(tmp_path, Course())
