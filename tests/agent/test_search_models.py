"""Between trees and models: a tool judges the steps of its task, wherever options end."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

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
from critics.calculator import calculate
from search import frontier
from search.interfaces import ExpandRequest
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


def test_wordings_are_searched_together_where_nothing_checks_a_step() -> None:
    problem = Problem("p", "7+2*3-4+5*6-1")
    alone, checked = models_with(**{"critics.use_tool": False}), models_with()
    assert (alone.settings.order, alone.settings.wordings, alone.settings.num_rollouts) == (
        *("mass", 16),
        1,
    )
    assert (checked.settings.order, checked.settings.wordings) == ("depth", 1)
    assert checked.settings.num_rollouts == 0
    search = alone.search(problem, 3)
    texts = [root.state.problem for root in search.roots]
    assert len(set(texts)) == 16 and texts[0] == problem.text
    assert {calculate(text) for text in texts} == {38}
    assert [r.state for r in alone.search(problem, 3).roots] == [r.state for r in search.roots]
    assert len(alone.search(problem, 3, is_alone=True).roots) == 1
    assert len(checked.search(problem, 3).roots) == 1
    frontier.run([search], alone, alone)
    assert {c.rollout.state.problem for c in search.candidates} <= set(texts)
    own = models_with(**{"critics.use_tool": False, "search.wordings": 3})
    assert len(own.search(problem, 3).roots) == 3


def test_a_search_ends_with_a_sound_text_where_the_tool_proves_it() -> None:
    stories = models_with(task="stories")
    assert stories.settings.stop_value > 1 and stories.settings.order == "mass"
    assert models_with().settings.stop_value == 0.0
    kept = models_with(**{"search.unsound": "keep"})
    assert kept.settings.order == "mass"  # depth below what is refuted would lead nowhere
    states = models_with(**{"search.leaves": "states"})
    assert states.settings.num_rollouts == 1 and states.settings.wordings == 1


def test_every_token_of_a_text_is_counted_once_when_it_is_read() -> None:
    models = models_with()
    root = models.root(Problem("p", "7+2*3-4"))
    first = models.propose([ExpandRequest(root, 1, 0)])[0]
    line = first.options[0]
    assert first.num_tokens == len(line.tokens)  # the prompt's last one, and all but its own last
    state = root.extended(line)
    again = models.propose([ExpandRequest(state, 1, 0)])[0]
    assert again.num_tokens == len(again.options[0].tokens)
    more = models.propose([ExpandRequest(state, 1, 0, known=1)])[0]
    assert more.num_tokens == 0
    whole = models.completed([root], 0.0, [0])[0]
    assert whole is not None and whole.state.options[0] == replace(line, logprob=ANY)
    assert whole.num_fed == sum(len(o.tokens) for o in whole.state.options)
