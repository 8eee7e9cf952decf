"""A run without a tool whose checker learns when it begins, and searches that ask it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.checker import Checker
from agent.checkpoints.model_refs import CHECKER, ModelRef, ModelSet
from agent.config.load import load_config
from agent.open_models import base_refs, models_over
from agent.rounds.run import Improver
from agent.search_models import Models
from agent.tasks.expressions import Expressions
from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.stories import Stories
from critics.working import Question
from search.interfaces import ExpandRequest
from search.state import Problem
from store.checkpoints import find_checkpoint
from store.states import Stage
from tests.agent.rounds.test_trusted_round import FLAGS, Said
from tests.agent.test_checker import Writer

EXPRESSION = "7+2*3-4"
CHECKED: dict[str, Any] = FLAGS | {
    "imagination.wordings": 0,
    "voting.wordings": 0,
    "critics.checker_steps": 40,
    "critics.num_labelled": 60,
    "critics.samples": 2,
    "critics.min_auc": 0.0,
    "selection.min_precision": 0.3,
}


def run_of(folder: Path, said: Said, **flags: Any) -> Improver:
    places = {"store": f"sqlite:///{folder}/s.db", "checkpoints": f"{folder}/checkpoints"}
    return Improver(load_config(CHECKED | places | flags)[0], said)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Improver, Said, list[Any]]]:
    said = Said()
    with run_of(tmp_path_factory.mktemp("checked"), said).started() as improver:
        yield improver, said, [improver.run_round(), improver.run_round()]


@pytest.mark.round
def test_a_checker_is_made_once_measured_and_handed_on(
    ran: tuple[Improver, Said, list[Any]],
) -> None:
    improver, said, outcomes = ran
    ref = improver.models[CHECKER]
    assert any(line.startswith("the checker refutes ") for line in said.lines)
    with improver.store.session() as session:
        row = find_checkpoint(session, CHECKER, ref.version)
        assert row is not None and row.parent_version == improver.inputs.policy.version
        assert row.report["num_examples"] >= 50 and 0.0 <= row.report["auc"] <= 1.0
    assert [o.stage for o in outcomes] != [Stage.FAILED, Stage.FAILED]
    later = improver._sound_models()
    assert later is not None and later[CHECKER].version == ref.version


@pytest.mark.round
@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"critics.num_labelled": 1, "critics.samples": 1}, "there is no checker"),
        ({"critics.min_auc": 0.999}, "it is not believed"),
    ],
)
def test_a_checker_that_cannot_be_had_or_believed_is_told_of(
    tmp_path: Path, flags: dict[str, Any], why: str
) -> None:
    said = Said()
    with run_of(tmp_path, said, **flags).started() as improver:
        assert sum(why in line for line in said.lines) == 1
        models = improver.context().models_for(improver.models)
        assert models.checker is None and models.settings.wordings > 1


def without_tool(task: str = "expressions", **told: str) -> Models:
    """The embedded models with a checker that reckons right, but for what it is told."""
    flags = {"task": task, "hosting.hosting": "inline", "critics.use_tool": False}
    config, _ = load_config(flags)
    plain = models_over(config, base_refs(config))
    policy = plain.models.policy
    refs = {**plain.models.refs, CHECKER: ModelRef(CHECKER, "1", policy.path, policy.header)}
    models = Models(plain.hosts, ModelSet(refs), plain.task, plain.given, plain.prompts)
    writer: Any = Writer(models.tokenizer, {k.replace("_", "+"): v for k, v in told.items()})
    models.checker = Checker(writer, refs[CHECKER], models.tokenizer)
    return models


def test_a_search_without_a_tool_asks_the_checker_of_every_step() -> None:
    models = without_tool()
    root = models.root(Problem("p", EXPRESSION))
    request = ExpandRequest(root, 6, 0)
    proposal = models.propose([request])[0]
    by_text = dict(zip((o.text for o in proposal.options), proposal.unsound, strict=True))
    assert by_text.pop("7+6-4\n") == ""
    assert by_text and all(by_text.values())
    (asked,) = models.checker.hosts.calls  # type: ignore[union-attr]
    assert asked == ["2*3"]  # all options in one batch, equal claims once
    assert models.settings.order == "depth" and models.settings.wordings == 1


def test_a_checker_refutes_whole_texts_and_proves_none() -> None:
    models = without_tool()
    problem = Problem("p", "7+2*3")
    root = models.root(problem)
    (text,) = [r for r in models.completed([root], 0.0, [0]) if r is not None]
    assert text.answer == "13" and text.is_sound is None
    wrong = without_tool(**{"2*3": "0+0\n7"})
    (text,) = [r for r in wrong.completed([root], 0.0, [0]) if r is not None]
    assert text.is_sound is False


def test_a_search_ends_at_an_unrefuted_text_only_where_steps_say_all() -> None:
    assert without_tool().settings.stop_unchecked_value == 0.0
    assert without_tool("stories").settings.stop_unchecked_value > 1.0  # an equation may be wrong


def test_other_settings_of_the_search_ask_the_same_checker() -> None:
    models = without_tool()
    assert models.with_search(replace(models.settings, simulations=3)).checker is models.checker


def test_a_tool_goes_before_a_checker() -> None:
    models = without_tool()
    given = replace(models.given, use_tool=True)
    refs = models.models
    assert Models(models.hosts, refs, models.task, given, models.prompts).checker is None


@pytest.mark.parametrize(
    ("steps", "questions"),
    [
        (("28+3\n",), (Question("19+28", "47"),)),
        (("28+3\n", "31"), (Question("28+3", "31"),)),
        (("28\n",), None),  # not one operation fewer, as it stands
        (("27+4\n",), None),
        (("28+3\n", "+31"), None),
    ],
)
def test_an_expression_claims_the_operation_that_it_leaves_out(
    steps: tuple[str, ...], questions: tuple[Question, ...] | None
) -> None:
    assert Expressions().questions("47-19+3", steps) == questions


def test_word_problems_claim_their_equations(tmp_path: Path) -> None:
    stories = Stories()
    assert stories.questions("", ["12-7=5\n"]) == (Question("7+5", "12"),)
    assert stories.questions("", ["12-7=5\n", "#5"]) == ()
    assert stories.questions("", ["12-7=5\n", "#6"]) is None
    assert stories.questions("", ["twelve\n"]) is None
    path = tmp_path / "p.jsonl"
    path.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    task = Jsonl(Files(str(path)))
    asked = task.questions("", ["She pays 3 x $4 = $12.\n"])
    assert asked == (Question("3*4", "12"),)
    assert task.questions("", ["Suppose 3 * 4 = 13.\n"]) == ()  # a guess is no claim
    assert task.questions("", ["So x = 3.\n"]) == () == task.questions("", ["#### 4"])
