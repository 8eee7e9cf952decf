"""A task from outside: that of the documentation, and what is told of one that cannot be used."""

import random
import re
from pathlib import Path

import pytest

from agent.config.load import load_config
from agent.config.settings import Config
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.tasks.registry import open_task
from agent.tasks.rewards import own_reward
from search.errors import TaskError, UsageError
from store.selection import Find
from tests.agent.chat import write_chat_model
from tests.agent.conftest import write_checkpoint
from tests.agent.rounds.small import SMALL, places

LONG = {
    # Long and warm enough for a random model to end some of its texts.
    "hosting.text_tokens": 150,
    "search.num_rollouts": 4,
    "search.rollout_temperature": 1.0,
    "search.max_tokens": 5000,
}
ROOT = Path(__file__).parent.parent.parent.parent


def documented(folder: Path) -> Path:
    text = (ROOT / "docs/tasks.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
    file = folder / "brackets.py"
    file.write_text(code)
    return file


def test_the_documented_task_is_short_and_does_what_a_task_must(tmp_path: Path) -> None:
    file = documented(tmp_path)
    assert len([line for line in file.read_text().splitlines() if line.strip()]) <= 40
    task = open_task(Config(task=f"{file}:Brackets"))
    seeds, held_out = task.seeds(30, 0), task.held_out(30, 0)
    assert len(seeds) == len(held_out) == 30
    assert not {p.id for p in seeds} & {p.id for p in held_out}
    assert task.seeds(30, 0) == seeds and task.seeds(30, 1) != seeds
    assert task.is_correct(task.answer_of([")\n", "]"]), ")]")
    assert task.check_step("[(", [")\n"]).is_sound is True
    assert task.check_step("[(", ["]\n"]).is_sound is False
    made = task.operators[0].apply(seeds[0], random.Random(0))
    assert made is not None and made.answer


@pytest.mark.round
def test_a_whole_round_runs_on_the_documented_task(tmp_path: Path) -> None:
    file = documented(tmp_path)
    policy = write_chat_model(tmp_path / "policy")
    settings = SMALL | places(tmp_path) | {"policy": str(policy), "task": f"{file}:Brackets"}
    config, _ = load_config(settings | LONG)
    with Improver(config, Silent()).started() as improver:
        outcome = improver.run_round()
    assert outcome.stage in ("promoted", "kept") and outcome.number == 1


@pytest.mark.parametrize(
    ("code", "name", "words"),
    [
        ("x = 1", "Nobody", "has no 'Nobody'"),
        ("x = 1", "x", "is no task"),
        ("class T: pass", "T", "is no task"),
        ("import nonsense_of_nobody", "T", "cannot be run: ModuleNotFoundError"),
        ("from agent.tasks.task import Task\nclass T(Task): pass", "T", "has no name"),
        (
            "from agent.tasks.task import Task\nclass T(Task):\n  name='t'\n"
            "  def __init__(self, problems): pass",
            "T",
            "needs a file",
        ),
        (
            "from agent.tasks.task import Task\nclass T(Task):\n  name='t'\n"
            "  def __init__(self): raise ValueError('no luck')",
            "T",
            "no luck",
        ),
    ],
)
def test_a_class_that_is_no_task_is_told(tmp_path: Path, code: str, name: str, words: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(code + "\n")
    with pytest.raises((UsageError, TaskError), match=words) as error:
        open_task(Config(task=f"{file}:{name}"))
    assert error.value.fix


BROKEN = [
    ("return text, closing(text)", "return text", "draw gave back a str"),
    ('return f"Close: {text}\\n"', "return None", "question gave back a NoneType"),
    ("is_sound = closing(text)", "is_sound = clossing(text)", "check_step.*NameError"),
    ("return Finding(is_sound", "return (is_sound", "check_step gave back a"),
    ("or None", "and 5", "answer_of gave back a int"),
    ('proves = "steps"', 'proves = "all"', "proves is 'all'"),
    (
        "    def answer_of(",
        "    def doubts(self, text, steps):\n        return tuple(map(len, steps))\n\n"
        "    def answer_of(",
        "doubts gave back",
    ),
    (
        "    def answer_of(",
        "    def doubts(self, text, steps):\n        return [0.0]\n\n    def answer_of(",
        "doubts gave back a list",
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), BROKEN)
def test_a_mistake_in_a_task_of_ones_own_is_told_by_its_method(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    file = documented(tmp_path)
    code = file.read_text()
    assert old in code
    file.write_text(code.replace(old, new))
    with pytest.raises(UsageError, match=words) as error:
        open_task(Config(task=f"{file}:Brackets"))
    assert error.value.fix


def test_a_task_without_problems_is_told(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("from agent.tasks.task import Task\nclass T(Task):\n  name='t'\n")
    with pytest.raises(UsageError, match="no draw"):
        open_task(Config(task=f"{file}:T"))


def test_a_file_that_is_not_there_and_files_of_no_use_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        open_task(Config(task=f"{tmp_path}/none.py:T"))
    file = documented(tmp_path)
    with pytest.raises(UsageError, match="--problems"):
        open_task(Config(task=f"{file}:Brackets", problems="x.jsonl"))
    with pytest.raises(UsageError, match="--held-out"):
        open_task(Config(task=f"{file}:Brackets", held_out="x.jsonl"))


FIND = Find(1, "a", 1, "p", True, "7", 0.9, True, 0.8, ("3+4=7\n", "#### 7"), 4, True, "7", "q")


def test_a_reward_of_ones_own_is_called_as_verl_calls_it(tmp_path: Path) -> None:
    assert own_reward(f"{ROOT}/critics/reward.py:compute_score")(FIND) == 1.0
    file = tmp_path / "reward.py"
    file.write_text(
        "def short(data_source, solution_str, ground_truth, extra_info=None):\n"
        "    return {'score': len(solution_str) / 100 + (ground_truth == '7')}\n"
        "def broken(**given):\n    raise KeyError('x')\n"
        "def endless(**given):\n    return float('inf')\n"
    )
    assert own_reward(f"{file}:short")(FIND) == pytest.approx(1.12)
    for name, words in (("broken", "KeyError"), ("endless", "inf")):
        with pytest.raises(UsageError, match=words):
            own_reward(f"{file}:{name}")(FIND)
    with pytest.raises(UsageError, match="is 'nothing'"):
        own_reward("nothing")


def test_an_unfit_checkpoint_is_told_by_its_vocabulary(tmp_path: Path) -> None:
    file = documented(tmp_path)
    policy = write_checkpoint(tmp_path / "digits")
    config, _ = load_config(
        SMALL | places(tmp_path) | {"policy": str(policy), "task": f"{file}:Brackets"}
    )
    with pytest.raises(UsageError, match="cannot spell"):
        Improver(config, Silent())
