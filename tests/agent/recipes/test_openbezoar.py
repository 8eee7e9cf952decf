"""OpenBezoar's recipe: rows by scheme, fine-tuning one after the other, preferences, DPO."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.weights import load_model
from agent.cli.app import app
from agent.config.load import load_config
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.imagination.written import Writer
from agent.progress import Silent
from agent.recipes.openbezoar import OpenBezoar, RecipePlan, own_preferences, read_preferences
from agent.recipes.written_rows import Writing, WrittenRow
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from agent.tasks.stories import Stories
from agent.tasks.task import Demonstration, is_held_out
from search.errors import CheckpointError, TaskError, UsageError
from store.database import open_store
from tests.agent.imagination.test_judge import Endpoint


class Stopped(BaseException):
    """As a signal would."""


FLAGS = ("--texts", "32", "--epochs", "1", "--batch-size", "4", "--num-problems", "8")


def worked(demonstration: Demonstration) -> dict[str, str]:
    lines = "".join(demonstration.steps[:-1])
    answer = f"{lines}#### {demonstration.problem.answer}"
    return {"question": demonstration.problem.text, "answer": answer}


def written(file: Path, found: Sequence[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded policy of stories, taught to end its answers as files of problems do."""
    folder = tmp_path_factory.mktemp("taught")
    lessons = [worked(d) for d in Stories().demonstrations(500, 7)]
    given = ["--problems", str(written(folder / "rows.jsonl", lessons))]
    given += ["--policy", str(EMBEDDED / "stories/policy"), "--out", str(folder / "policy")]
    given += ["--store", f"sqlite:///{folder}/s.db", "--epochs", "2", "--batch-size", "16"]
    given += ["--learning-rate", "2e-3"]
    done = CliRunner().invoke(app, ["teach", *given, "--num-problems", "0"])
    assert done.exit_code == 0, done.exception
    return folder / "policy"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    problems = (*Stories().seeds(60, 0), *Stories().held_out(10, 0))
    found = [{"question": p.text, "answer": f"#### {p.answer}"} for p in problems]
    return written(tmp_path / "rows.jsonl", found)


@pytest.fixture
def judge() -> Iterator[Endpoint]:
    """Finds everything good but what ends in an even number."""
    endpoint = Endpoint(
        lambda q: (200, "no" if q.split("\n\nIs this")[0][-1] in "02468" else "yes")
    )
    yield endpoint
    endpoint.server.shutdown()
    endpoint.server.server_close()


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded policy follows no instruction: a scribe stands in for what asks for problems."""

    def texts(self: Writer, prompts: list[str], purpose: str) -> list[str]:
        stories = Stories().seeds(400, len(purpose) + len(prompts))[200:]
        return [stories[i % len(stories)].text + "\n\n" for i in range(len(prompts))]

    monkeypatch.setattr(Writer, "texts", texts)


def recipe(tmp_path: Path, policy: Path, rows: Path, *more: str) -> Result:
    given = ["--problems", str(rows), "--policy", str(policy)]
    given += ["--out", str(tmp_path / "out"), "--store", f"sqlite:///{tmp_path}/s.db"]
    return CliRunner().invoke(app, ["recipe", "openbezoar", *given, *FLAGS, "--json", *more])


def steps_of(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.exception
    found: list[dict[str, Any]] = json.loads(done.stdout)["steps"]
    return found


@pytest.mark.usefixtures("writes")
def test_the_recipe_trains_scheme_by_scheme_and_then_on_preferences(
    tmp_path: Path, taught: Path, rows: Path, judge: Endpoint
) -> None:
    found = steps_of(recipe(tmp_path, taught, rows, "--judge", judge.url, "--lora-rank", "4"))
    steps = {step["step"]: step for step in found}
    assert list(steps) == ["0-base", "1-lamini", "2-evol", "3-orca", "4-preferred", "5-dpo"]
    trained = [s for s in found[1:] if not s["skipped"]]
    assert {s["step"] for s in trained} >= {"1-lamini", "2-evol", "3-orca"}
    parent = steps["0-base"]["version"]
    for step in trained:
        checkpoint = verify_checkpoint(Path(step["path"]))
        assert checkpoint.version == step["version"] != parent
        assert checkpoint.adapter is None  # merged before the next one learns
        assert step["greedy"]["n"] == 8 and step["last_loss"] is not None
        parent = step["version"]
    refused = steps["1-lamini"]["refused"]
    assert refused["answer: judge"] > 0
    for scheme in ("lamini", "evol-deepen", "evol-widen", "orca"):
        writing = Writing.read(tmp_path / "out/rows" / f"{scheme}.jsonl")
        assert writing.scheme == scheme and len(writing.rows) <= 32
        assert all(row.answer[-1] not in "02468" for row in writing.rows)
    orca = Writing.read(tmp_path / "out/rows/orca.jsonl").rows
    assert orca and all(row.question.count("\n\n") == 1 for row in orca)
    held_out = {p.text for p in Stories().held_out(200, 0)}
    assert not held_out & {row.question for row in orca}


@pytest.mark.usefixtures("writes")
def test_a_recipe_that_was_stopped_goes_on_and_writes_nothing_again(
    tmp_path: Path,
    taught: Path,
    rows: Path,
    judge: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from agent.recipes import openbezoar

    real: Callable[..., Any] = openbezoar.run_job
    done: list[str] = []

    def stopped(job: Any, place: Any, progress: Any) -> Any:
        if len(done) == 1:
            raise Stopped
        done.append(place.folder)
        return real(job, place, progress)

    more = ("--judge", judge.url, "--lora-rank", "4")
    monkeypatch.setattr(openbezoar, "run_job", stopped)
    with pytest.raises(Stopped):
        raise recipe(tmp_path, taught, rows, *more).exception or AssertionError
    asked, first = len(judge.asked), verify_checkpoint(tmp_path / "out/1-lamini").version
    monkeypatch.setattr(openbezoar, "run_job", real)
    steps = steps_of(recipe(tmp_path, taught, rows, *more))
    assert steps[1]["version"] == first
    questions = [body["messages"][0]["content"] for body in judge.asked]
    assert len(set(questions[:asked]) & set(questions[asked:])) == 0
    again = len(judge.asked)
    assert steps_of(recipe(tmp_path, taught, rows, *more)) == steps and len(judge.asked) == again


def test_schemes_that_the_writer_cannot_follow_are_left_out_and_say_so(
    tmp_path: Path, taught: Path, rows: Path, judge: Endpoint
) -> None:
    """The real embedded policy, asked for problems, writes none."""
    done = recipe(tmp_path, taught, rows, "--judge", judge.url, "--lora-rank", "4")
    steps = {s["step"]: s for s in steps_of(done)}
    assert "rows, and 4 are the least" in steps["1-lamini"]["skipped"]
    assert steps["1-lamini"]["refused"]["lamini: no problem"] > 0
    assert steps["1-lamini"]["version"] == steps["0-base"]["version"]


def test_dpo_learns_from_preferences_of_a_file(
    tmp_path: Path, taught: Path, rows: Path, judge: Endpoint
) -> None:
    told = [
        {
            "prompt": p.text,
            "chosen": f"#{p.answer}",
            "rejected": f"#{int(p.answer or 0) + 1}",
        }
        for p in Stories().seeds(16, 5)
    ]
    file = tmp_path / "preferences.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in told))
    more = ("--judge", judge.url, "--lora-rank", "0", "--preferences", str(file))
    steps = {s["step"]: s for s in steps_of(recipe(tmp_path, taught, rows, *more))}
    assert steps["4-preferred"]["rows"] == steps["5-dpo"]["rows"] == 16
    dpo = verify_checkpoint(Path(steps["5-dpo"]["path"]))
    assert dpo.report["method"] == "dpo" and dpo.report["num_steps"] == 8
    assert load_model(dpo).arch == load_model(verify_checkpoint(taught)).arch


def test_rows_and_preferences_that_give_held_out_problems_away_are_not_learned(
    tmp_path: Path, taught: Path, judge: Endpoint
) -> None:
    """One given problem says a held-out one in more words, one preference is it."""
    held_out = max((p.text for p in Stories().held_out(40, 0)), key=len)
    problems = [p.text for p in (*Stories().seeds(20, 0), *Stories().held_out(5, 0))]
    told = [{"question": text, "answer": "#### 1"} for text in (*problems, held_out)]
    leaking = next(
        text
        for i in range(200)
        if not is_held_out((text := f"Here is number {i}. {held_out}").lower())
    )
    told.append({"question": leaking, "answer": "#### 1"})
    rows = written(tmp_path / "rows.jsonl", told)
    preferences = [
        {"prompt": text, "chosen": "#### 1", "rejected": "#### 2"}
        for text in (problems[0], held_out, leaking)
    ]
    file = written(tmp_path / "p.jsonl", preferences)
    given = {"task": "jsonl", "problems": str(rows), "policy": str(taught)}
    config, _ = load_config(given | {"hosting.hosting": "inline"})
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    plan = RecipePlan(preferences=str(file))
    recipe = OpenBezoar(config, tmp_path / "out", plan, store, Silent())
    texts = {p.text for p in recipe.given}
    assert problems[0] in texts and not texts & {held_out, leaking}
    assert [p.prompt for p in recipe.preferred or ()] == [problems[0]]
    store.close()


def test_a_recipe_with_other_held_out_problems_is_another_recipe(
    tmp_path: Path, taught: Path, rows: Path, judge: Endpoint
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.db")

    def begun(**more: Any) -> OpenBezoar:
        given = {"task": "jsonl", "problems": str(rows), "policy": str(taught)}
        config, _ = load_config(given | {"hosting.hosting": "inline"} | more)
        return OpenBezoar(config, tmp_path / "out", RecipePlan(), store, Silent())

    begun()
    begun()
    others = [{"question": p.text, "answer": "#### 1"} for p in Stories().held_out(9, 4)]
    file = written(tmp_path / "others.jsonl", others)
    for more in ({"held_out": str(file)}, {"evaluation.seed": 5}, {"answers": "text"}):
        with pytest.raises(UsageError, match="another recipe's steps"):
            begun(**more)
    (tmp_path / "out/recipe.json").write_text("{")
    with pytest.raises(UsageError, match=r"no recipe's report"):
        begun()
    store.close()


def test_a_new_recipe_touches_nothing_beside_its_folder(
    tmp_path: Path, taught: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".out").mkdir()
    (tmp_path / ".out/mine").write_text("x")
    given = {"task": "jsonl", "problems": str(rows), "policy": str(taught)}
    config, _ = load_config(given | {"hosting.hosting": "inline"})
    store = open_store(f"sqlite:///{tmp_path}/s.db")
    OpenBezoar(config, tmp_path / "out", RecipePlan(), store, Silent())
    assert (tmp_path / ".out/mine").read_text() == "x"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    OpenBezoar(config, Path("."), RecipePlan(), store, Silent())
    assert (tmp_path / "here/recipe.json").is_file()
    assert not list(tmp_path.glob(".writing *"))
    store.close()


def test_rows_with_other_line_ends_are_read_back_as_they_were(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\nd"
    writing = Writing("orca", [WrittenRow(text, text, "orca")], {"judge": 1})
    writing.save(tmp_path / "orca.jsonl")
    assert Writing.read(tmp_path / "orca.jsonl") == writing
    row = {"prompt": text, "chosen": text + "1", "rejected": text}
    (tmp_path / "p.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert read_preferences(tmp_path / "p.jsonl")[0].chosen == text + "1"


def test_a_writer_with_another_tokenizer_is_refused_before_anything_is_written(
    tmp_path: Path, taught: Path, rows: Path, judge: Endpoint
) -> None:
    more = ("--judge", judge.url, "--writer", str(EMBEDDED / "expressions/policy"))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        raise recipe(tmp_path, taught, rows, *more).exception or AssertionError
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no preferences"),
        ('{"prompt": "a", "chosen": "b"}\n', "line 1: no row"),
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "are equal"),
        ('\n{"prompt": "a", "chosen": "", "rejected": "b"}\n', "line 2: a text is empty"),
        ("[1]\n", "line 1: no row"),
    ],
)
def test_a_file_of_preferences_is_refused_by_its_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(text)
    with pytest.raises(TaskError, match=told):
        read_preferences(file)
    with pytest.raises(TaskError, match="cannot be read"):
        read_preferences(tmp_path / "nowhere")


def test_a_folder_of_another_recipe_or_of_anything_else_is_refused(
    tmp_path: Path, taught: Path, rows: Path, judge: Endpoint
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with pytest.raises(UsageError, match="is not empty"):
        raise recipe(tmp_path, taught, rows, "--judge", judge.url).exception or AssertionError
    (tmp_path / "out/mine").unlink()
    (tmp_path / "out/recipe.json").write_text('{"recipe": "another"}')
    with pytest.raises(UsageError, match="another recipe's steps"):
        raise recipe(tmp_path, taught, rows, "--judge", judge.url).exception or AssertionError
    assert not judge.asked


def test_a_policys_own_preferences_are_right_texts_against_wrong_ones(
    taught: Path, rows: Path
) -> None:
    config, _ = load_config({"task": "jsonl", "problems": str(rows), "hosting.hosting": "inline"})
    task = open_task(config)
    policy = verify_checkpoint(taught).ref("policy")
    hosts = InlineHosts(HostSettings())
    models = Models(hosts, ModelSet({"policy": policy}), task, ModelSettings.of(config))
    problems = task.given(0)[:24]
    answers = {p.text: p.answer or "" for p in problems}
    found = own_preferences(models, problems, 6, 0)
    assert found
    for pair in found:
        right, wrong = (
            task.is_correct(task.answer_of(text.splitlines(keepends=True)), answers[pair.prompt])
            for text in (pair.chosen, pair.rejected)
        )
        assert right and not wrong
    assert max(Counter(pair.prompt for pair in found).values()) <= 2
