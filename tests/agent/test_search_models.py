"""Between trees and models: a tool judges the steps of its task, wherever options end."""

from pathlib import Path

import pytest

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.model_refs import ModelSet
from agent.config.load import load_config
from agent.evaluation.answering import Plan, evaluate
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.open_models import base_refs, models_over
from agent.prompts import PromptSettings
from agent.search_models import NEUTRAL, Models, ModelSettings
from agent.tasks.jsonl import Files, Jsonl
from search import frontier
from search.mcts import Search
from search.settings import SearchSettings
from search.state import Option, Problem

EXPRESSION = "7+2*3-4"


def models_with(**flags: object) -> Models:
    config, _ = load_config({"hosting.hosting": "inline"} | flags)
    return models_over(config, base_refs(config))


def options(*texts: str) -> tuple[Option, ...]:
    last = len(texts) - 1
    return tuple(
        Option((i,), text, -0.1, "end" if i == last else "boundary") for i, text in enumerate(texts)
    )


@pytest.mark.parametrize(
    ("boundary", "texts", "verdicts"),
    [
        ("newline", ("7+6-4\n", "13-4\n", "9"), [True, True, True]),
        ("tokens:3", ("7+6", "-4\n", "14-", "4\n", "10"), [True, True, True, False, True]),
        ("blank_line", ("7+6-4\n13-4\n", "9"), [True, True]),
        ("blank_line", ("7+6-4\n12-4\n", "8"), [False, True]),
    ],
)
def test_the_tool_judges_whole_steps_wherever_options_end(
    boundary: str, texts: tuple[str, ...], verdicts: list[bool]
) -> None:
    models = models_with(**{"search.boundary": boundary})
    state = models.root(Problem("p", EXPRESSION))
    found = []
    for option in options(*texts):
        state = state.extended(option)
        found.append(models.check(state).is_sound)
    assert found == verdicts
    assert models.answer_of(state) == texts[-1]


@pytest.mark.parametrize("boundary", ["newline", "tokens:5", "blank_line"])
def test_a_problem_is_solved_at_line_level_and_at_others(boundary: str) -> None:
    models = models_with(**{"search.boundary": boundary})
    root = models.root(Problem("p", "7+2*3-4+5*6-1"))
    search = Search(root, models.settings, seed=0)
    frontier.run([search], models, models)
    chosen = search.result().chosen
    assert search.stop_reason == "solved" and chosen is not None
    assert chosen.rollout.answer == "38" and chosen.rollout.is_sound


def test_a_boundary_that_never_comes_ends_cleanly() -> None:
    models = models_with(
        **{"search.boundary": "blank_line", "hosting.option_tokens": 4, "hosting.text_tokens": 6}
    )
    search = Search(models.root(Problem("p", "7+2*3-4+5*6-1")), models.settings, seed=0)
    frontier.run([search], models, models)
    assert search.stop_reason == "exhausted"
    assert search.result().chosen is None
    assert all(n.pending == 0 for n in search.nodes)


def test_a_critic_that_ranks_like_chance_gives_no_scores_and_says_why() -> None:
    models = models_with(**{"critics.min_auc": 0.9})
    trusted = {role: ref.header.auc or 0.0 for role, ref in models.models.refs.items()}
    assert trusted["process"] > 0.9 > trusted["value"]
    search = Search(models.root(Problem("p", "7+2*3-4+5*6-1")), models.settings, seed=0)
    frontier.run([search], models, models)
    scores = [s for n in search.nodes for s in n.scores if s.critic == "value"]
    assert scores and all(s.value is None and "under 0.9" in s.reason for s in scores)
    assert all(n.value is not None for n in search.nodes if n.num_evaluations)
    everyone = models_with()
    assert not everyone.distrusted
    nobody = models_with(**{"critics.min_auc": 1.0})
    search = Search(nobody.root(Problem("p", "7+2*3-4+5*6-1")), nobody.settings, seed=0)
    frontier.run([search], nobody, nobody)
    chosen = search.result().chosen
    assert chosen is not None and chosen.rollout.answer == "38"
    assert {n.value for n in search.nodes if n.num_evaluations} == {NEUTRAL}


def test_wordings_of_a_problem_answer_together_and_all_their_tokens_count() -> None:
    models = models_with(**{"critics.use_tool": False})
    problems = models.task.held_out(24, 0)
    alone = evaluate(models, problems, Plan("greedy"))
    one = evaluate(models, problems, Plan("wordings", samples=1))
    assert {k: a.answer for k, a in one.items.items()} == {
        k: a.answer for k, a in alone.items.items()
    }
    several = evaluate(models, problems, Plan("wordings", samples=6))
    assert one.num_tokens == alone.num_tokens
    assert 3 * alone.num_tokens < several.num_tokens < 9 * alone.num_tokens
    assert several.num_correct >= alone.num_correct


def test_every_request_to_a_model_counts() -> None:
    """The root asks for a rollout, its value and the rollout's outcome: a budget of 3."""
    models = models_with(
        **{"search.max_calls": 3, "search.stop_value": 2.0, "search.leaves": "states"}
    )
    search = Search(models.root(Problem("p", "7+2*3-4+5*6-1")), models.settings, seed=0)
    frontier.run([search], models, models)
    assert (search.budget.calls, search.budget.simulations) == (3, 1)
    assert search.stop_reason == "calls"


def test_what_an_evaluation_depends_on_names_prompts_and_the_answer_rule(tmp_path: Path) -> None:
    """Figures of another prompt are figures of another question: they are not reused."""
    file = tmp_path / "rows.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n')
    ref = verify_checkpoint(EMBEDDED / "stories" / "policy").ref("policy")
    hosts = InlineHosts(HostSettings())

    def settings(rule: str, **prompt: object) -> dict[str, object]:
        given = ModelSettings(SearchSettings(), {}, prompt=PromptSettings.model_validate(prompt))
        task = Jsonl(Files(str(file)), rule)  # type: ignore[arg-type]
        return Plan("greedy").settings(Models(hosts, ModelSet({"policy": ref}), task, given))

    plain = settings("auto")
    assert "prompt" not in plain and "answers" not in plain
    assert settings("choice") == plain | {"answers": "choice"}
    brief = settings("auto", system="Be brief.")
    assert set(brief) - set(plain) == {"prompt"}
    assert brief != settings("auto", system="Be long.")
    hosts.close()
