"""What `build_embedded` teaches a policy with: right texts, in the tokens that it reads."""

import random
from pathlib import Path

import pytest
import torch

from agent.checkpoints.weights import load_model
from agent.config.settings import Config
from agent.engine.tokenizer import Tokenizer
from agent.tasks.ledger import asked
from agent.tasks.registry import open_task
from scripts.embedded_policy import RECIPES, empty_checkpoint, learn_ledgers, questioned


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = RECIPES["ledger"] | {"hidden": 32, "inner": 64, "layers": 1, "positions": 512}
    path = tmp_path_factory.mktemp("ledger") / "empty"
    empty_checkpoint(path, open_task(Config(task="ledger")), recipe, 0)
    return path


def test_a_ledgers_questions_stand_one_after_the_other_with_their_answers(empty: Path) -> None:
    tokenizer = Tokenizer(empty)
    example = questioned(random.Random(0), tokenizer, 20, 5)
    ledger = tokenizer.decode(example.tokens[: example.num_prompt])
    assert ledger.count("=") == 20 and ledger.endswith("\n\n")
    ends = [i for i, token in enumerate(example.tokens) if token in tokenizer.end_ids]
    assert len(ends) == 5 and ends[-1] == len(example.tokens) - 1
    start = example.num_prompt
    task = open_task(Config(task="ledger"))
    for end in ends:
        name, _, answer = tokenizer.decode(example.tokens[start:end]).partition("=")
        steps = answer.splitlines(keepends=True)
        text = f"{ledger}{name}="
        assert steps[0].strip() == asked(text)
        assert all(task.check_step(text, steps[: i + 1]).is_sound for i in range(len(steps)))
        start = end + 1


def test_the_stages_of_a_ledgers_policy_teach_it(empty: Path) -> None:
    from agent.checkpoints.checkpoint import verify_checkpoint

    model = load_model(verify_checkpoint(empty))
    said: list[str] = []
    before = model.head.detach().clone()
    stages = ((4, 6, 2, 2, 1, 0.02), (6, 9, 2, 1, 1, 0.01))
    learn_ledgers(model, Tokenizer(empty), stages, 0, said.append)
    assert said == ["stage 1: 4 to 6 lines", "stage 2: 6 to 9 lines"]
    assert not torch.equal(model.head, before)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_names_tasks_that_are_there(name: str) -> None:
    recipe = RECIPES[name]
    for task in (recipe.get("task", name), *recipe.get("tasks", ())):
        assert open_task(Config(task=task)).demonstrations(2, 0)
