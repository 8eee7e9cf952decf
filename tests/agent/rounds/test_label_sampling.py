"""Critics learn from what a search comes across: options and texts that a tool lets pass."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.config.load import load_config
from agent.evaluation.answering import sample_rollouts
from agent.open_models import base_refs, models_over
from agent.rounds.label_sampling import LabelSampling, is_measuring
from agent.search_models import Models
from search.boundary import boundary_named
from search.state import Option, Problem

SEED = 5


def opened(task: str, use_tool: bool = True) -> Models:
    flags = {"task": task, "hosting.hosting": "inline", "hosting.speculation": "never"}
    config, _ = load_config(flags | {"critics.use_tool": use_tool})
    return models_over(config, base_refs(config))


@pytest.fixture(scope="module")
def stories() -> Models:
    return opened("stories")


def sampling(models: Models, num: int) -> tuple[LabelSampling, list[Problem]]:
    problems = models.task.labelled(num, SEED)
    return LabelSampling(models, models.task, problems, SEED), problems


def test_a_true_step_is_good_only_where_it_leads_to_the_answer(stories: Models) -> None:
    labels, problems = sampling(stories, 30)
    groups = sample_rollouts(stories, problems, 2, 1.0, SEED)
    groups_of_options, ends = labels.siblings(problems, groups, 1, 4)
    roots = [g for g in groups_of_options if not g.state.options]
    assert [g.state.problem_id for g in roots] == [p.id for p in problems]
    assert all(g.state.options for g in groups_of_options if g not in roots)
    found: set[tuple[bool | None, bool]] = set()
    for group in groups_of_options:
        for option, is_good in zip(group.options, group.is_good, strict=True):
            found.add((stories.check(group.state.extended(option)).is_sound, is_good))
    # The calculator of stories knows whether an equation holds, and not whether it is the one.
    assert (True, True) in found and (True, False) in found and (False, False) in found
    assert (False, True) not in found
    options = [g.state.extended(o) for g in groups_of_options for o in g.options]
    assert len(ends) == sum(stories.check(option).is_sound is not False for option in options) > 30


def test_where_the_tool_proves_steps_its_word_is_the_label() -> None:
    models = opened("expressions")
    labels, problems = sampling(models, 12)
    groups = sample_rollouts(models, problems, 3, 1.0, SEED)
    found, ends = labels.siblings(problems, groups, 2, 4)
    for group in found:
        told = [models.check(group.state.extended(o)).is_sound for o in group.options]
        assert tuple(told) == group.is_good
    assert not ends  # nothing had to be written to the end


def test_the_outcome_critic_learns_from_the_texts_that_options_come_to(stories: Models) -> None:
    labels, problems = sampling(stories, 30)
    found = labels.labelled(2, 1, 4)
    groups = sample_rollouts(stories, problems, 2, 1.0, SEED)
    sampled = {r.state.tokens for group in groups for r in group}
    rows = [*found.outcome.train, *found.outcome.held_out]
    more = [row for row in rows if row.tokens not in sampled]
    # Wrong ones above all, whose every equation holds: no sample showed them.
    assert sum(not row.is_good for row in more) > 5
    assert len({row.tokens for row in more}) == len(more)  # each of them once


def test_an_outcome_score_weighs_what_the_task_holds_against_a_text(
    stories: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its critic was fitted with doubts; the other critics are not told of any."""
    problems = stories.task.labelled(6, SEED)
    texts = [g[0].state for g in sample_rollouts(stories, problems, 1, 0.0, SEED)]
    plain, steps = stories.outcome_scores(texts), stories.process_scores(texts)
    fitted = replace(stories.models.calibration("outcome"), doubts=(-3.0, 0.0))
    monkeypatch.setattr(type(stories.models), "calibration", lambda self, role: fitted)
    monkeypatch.setattr(
        stories.task, "doubts", lambda text, steps: (float(text == problems[0].text), 1.0)
    )
    told = stories.outcome_scores(texts)
    assert told[0].value is not None and plain[0].value is not None
    odds = [v / (1 - v) for v in (told[0].value, plain[0].value)]
    assert odds[0] / odds[1] == pytest.approx(math.exp(-3.0), rel=1e-3)
    assert [s.value for s in told[1:]] == [s.value for s in plain[1:]]
    assert len(steps) == 6


def test_doubts_are_asked_about_the_tasks_own_steps_whatever_options_end_at(
    stories: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = stories.task.labelled(1, SEED)[0]
    whole = Option((5,), "1 + 1 = 2\n2 + 3 = 5\n#### 5", 0.0, "end")
    state = stories.root(problem).extended(whole)
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(stories.task, "doubts", lambda text, steps: asked.append(steps) or ())
    monkeypatch.setattr(stories, "boundary", boundary_named("blank_line"))
    stories.doubts(state)
    assert asked == [["1 + 1 = 2\n", "2 + 3 = 5\n", "#### 5"]]


def test_a_sampled_step_that_is_true_is_not_good_for_that(stories: Models) -> None:
    labels, problems = sampling(stories, 30)
    texts = [r for g in sample_rollouts(stories, problems, 3, 1.0, SEED) for r in g]
    told: set[tuple[bool, bool | None]] = set()
    for text in texts:
        for place in range(text.state.depth):
            beginning = replace(text.state, options=text.state.options[: place + 1])
            if stories.check(beginning).is_sound:
                told.add((labels.is_correct(text), labels.step_is_sound(text, place)))
    assert told == {(True, True), (False, None)}


def test_problems_that_measure_teach_nothing(stories: Models) -> None:
    labels, problems = sampling(stories, 30)
    found = labels.labelled(2, 1, 4)
    measuring = {tuple(stories.root(p).tokens) for p in problems if is_measuring(p.id)}
    assert measuring
    for role in ("value", "process", "outcome"):
        for row in found.of(role).train:
            assert not any(row.tokens[: len(root)] == root for root in measuring)
