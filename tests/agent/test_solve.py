"""One question, searched: a record that the command prints and a service can answer with."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent.cli.commands.solve import checked
from agent.config.load import load_config
from agent.open_models import base_refs, models_over
from agent.solve import search_for, solution_of, solve
from search.errors import TaskError
from search.frontier import Frontier
from search.state import State
from tests.agent.conftest import write_checkpoint

QUESTION = "7+2*3-4+5*6-1"


@pytest.fixture(scope="module")
def models() -> object:
    config, _ = load_config({"hosting.hosting": "inline", "hosting.speculation": "never"})
    return models_over(config, base_refs(config))


def test_a_solution_says_what_was_found_and_how(models) -> None:  # type: ignore[no-untyped-def]
    found = solve(models, QUESTION, seed=0)
    assert found.answer == "38" and found.is_sound is True
    assert found.checked_by == "calculator"
    assert [step.text for step in found.steps][-1] == "38"
    assert found.steps[0].visits and 0 < (found.steps[0].prior or 0) <= 1
    assert found.tokens > 0 and found.simulations > 0 and 0 <= found.confidence <= 1
    assert found.models == models.versions and set(found.models) >= {"policy", "value"}
    assert solve(models, QUESTION, seed=0) == found


def test_people_are_told_who_checked_the_steps(models) -> None:  # type: ignore[no-untyped-def]
    proven = solve(models, QUESTION, seed=0)
    for is_sound, by, told in (
        (True, "calculator", "every step checked by the calculator"),
        (False, "checker", "a step refuted by the checker"),
        (None, "checker", "worked out again by the checker, which found nothing wrong"),
        (None, "", "unchecked"),
    ):
        assert checked(replace(proven, is_sound=is_sound, checked_by=by)) == told
    nothing = replace(proven, is_sound=None, checked_by="checker", answer=None)
    assert checked(nothing) == "unchecked"


def test_a_question_too_long_for_the_policy_joins_no_frontier(tmp_path: Path) -> None:
    policy = write_checkpoint(tmp_path / "policy", max_position_embeddings=8)
    config, _ = load_config({"hosting.hosting": "inline", "policy": str(policy)})
    with pytest.raises(TaskError, match="context holds 8"):
        search_for(models_over(config, base_refs(config)), QUESTION, 0)


def test_a_question_in_a_shared_frontier_has_the_solution_it_has_alone(models) -> None:  # type: ignore[no-untyped-def]
    others = ["3+4*2-5", QUESTION, "9-2*3+8"]
    searches = [search_for(models, text, 0) for text in others]
    shared = Frontier(models, models)
    for search in searches:
        shared.add(search)
    while not shared.is_idle:
        shared.step()
    assert solution_of(models, QUESTION, searches[1]) == solve(models, QUESTION, 0)


def test_a_search_under_way_has_a_solution_too(models) -> None:  # type: ignore[no-untyped-def]
    search = search_for(models, QUESTION, 0)
    shared = Frontier(models, models)
    shared.add(search)
    nothing = solution_of(models, QUESTION, search)
    assert (nothing.answer, nothing.steps, nothing.stop_reason) == (None, (), "")
    shared.step()
    assert solution_of(models, QUESTION, search).tokens > 0


def test_what_is_no_question_of_the_task_is_refused(models) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError):
        solve(models, "what is love?", 0)


def test_the_reference_answer_is_not_in_what_is_searched(models) -> None:  # type: ignore[no-untyped-def]
    root: State = search_for(models, QUESTION, 0).root.state
    assert "38" not in root.prompt
