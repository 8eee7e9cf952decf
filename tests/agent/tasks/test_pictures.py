"""Expressions as pictures."""

from pathlib import Path

import pytest

from agent.config.load import load_config
from agent.config.settings import PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.networks.pictures import pictures_in
from agent.pictures.folder import digest_of
from agent.prompts import Prompts
from agent.tasks.expressions import Expressions
from agent.tasks.pictures import Pictures, drawn
from agent.tasks.registry import open_task
from agent.tasks.wordings import wordings_of
from search.errors import TaskError, UsageError
from tests.agent.conftest import write_checkpoint
from tests.agent.networks.pictured import PLACES, write_llava


@pytest.fixture
def task(tmp_path: Path) -> Pictures:
    return Pictures(tmp_path / "pictures")


def test_problems_are_those_of_expressions_under_keys_of_their_own(task: Pictures) -> None:
    ours, theirs = task.held_out(20, 3), Expressions().held_out(20, 3)
    assert [(p.text, p.answer, p.difficulty) for p in ours] == [
        (p.text, p.answer, p.difficulty) for p in theirs
    ]
    assert not {p.id for p in ours} & {p.id for p in theirs}
    assert not {p.text for p in ours} & {p.text for p in task.seeds(200, 3)}


def test_a_problem_has_the_picture_of_its_text_on_the_disk(task: Pictures, tmp_path: Path) -> None:
    (problem,) = task.held_out(1, 0)
    (digest,) = problem.pictures
    assert digest == digest_of(drawn(problem.text))
    assert (tmp_path / "pictures" / digest[:2] / f"{digest}.png").is_file()
    assert Pictures(tmp_path / "elsewhere").pictures(problem.text) == (digest,)


def test_a_prompt_is_the_picture_and_not_a_word_of_the_text(task: Pictures, tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_llava(tmp_path / "policy"))
    prompts = Prompts(task, tokenizer, PromptSettings())
    (problem,) = task.held_out(1, 0)
    tokens = prompts.tokens(problem.text)
    assert list(pictures_in(tokens)) == [(0, problem.pictures[0])]
    assert tokens[PLACES:] == tokenizer.encode("\n", is_start=False)
    assert prompts.text(problem.text) == "\n"


def test_a_policy_that_reads_text_alone_is_refused_before_it_is_asked(
    task: Pictures, tmp_path: Path
) -> None:
    tokenizer = Tokenizer(write_checkpoint(tmp_path / "policy"))
    prompts = Prompts(task, tokenizer, PromptSettings())
    with pytest.raises(TaskError, match="this policy reads text alone"):
        prompts.tokens("7+2")


def test_a_policy_that_reads_pictures_takes_problems_without_any(tmp_path: Path) -> None:
    tokenizer = Tokenizer(write_llava(tmp_path / "policy"))
    prompts = Prompts(Expressions(), tokenizer, PromptSettings())
    assert prompts.tokens("7+2") == tokenizer.encode("7+2\n")


def test_the_tool_draws_a_reading_again_and_checks_the_steps_below_it(task: Pictures) -> None:
    text = "7+2*3"
    for steps, is_sound in (
        (["7+2*3\n"], True),
        (["7+2*8\n"], False),
        (["7+2\n"], False),
        (["hello\n"], False),
        (["7+2*3"], False),  # ends with the reading
        (["7+2*3\n", "7+6\n"], True),
        (["7+2*3\n", "7+5\n"], False),
        (["7+2*8\n", "7+16\n"], True),  # a right step below a wrong reading
        (["7+2*3\n", "7+6\n", "13"], True),
    ):
        assert task.check_step(text, steps).is_sound is is_sound, steps
    assert task.answer_of(["7+2*3\n", "7+6\n", "13"]) == "13"


def test_what_the_tool_says_it_says_of_the_picture_and_not_of_the_text(
    task: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.tasks import pictures

    pictures._compared.cache_clear()
    pictures._picture.cache_clear()
    monkeypatch.setattr(pictures, "drawn", lambda text: drawn("9-1"))
    assert task.check_step("7+2*3", ["9-1\n"]).is_sound
    assert task.check_step("7+2*3", ["7+2*3\n"]).is_sound is False
    pictures._compared.cache_clear()
    pictures._picture.cache_clear()


def test_a_picture_has_no_other_wordings(task: Pictures) -> None:
    (problem,) = task.held_out(1, 0)
    assert wordings_of(task, problem, 4, 0) == []
    assert len(wordings_of(Expressions(), problem, 4, 0)) == 4


def test_demonstrations_say_what_they_read_first(task: Pictures) -> None:
    for demonstration in task.demonstrations(20, 0):
        assert demonstration.steps[0] == demonstration.problem.text + "\n"
        for i in range(1, len(demonstration.steps)):
            steps = demonstration.steps[: i + 1]
            assert task.check_step(demonstration.problem.text, steps).is_sound


def test_the_registry_gives_it_the_folder_of_the_settings(tmp_path: Path) -> None:
    flags = {"task": "pictures", "hosting.pictures": str(tmp_path / "mine")}
    open_task(load_config(flags)[0]).pictures("1+2")
    assert list((tmp_path / "mine").rglob("*.png"))
    with pytest.raises(UsageError, match="makes its own problems"):
        open_task(load_config(flags | {"problems": "x.jsonl"})[0])
