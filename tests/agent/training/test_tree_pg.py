"""A step of a tree gains by what lies below it, and its siblings lose by it."""

from pathlib import Path

import pytest
import torch

from agent.training.clipped import Clip
from agent.training.examples import Example, SiblingSteps
from agent.training.logprobs import counted_logprobs
from agent.training.methods.tree_pg import advantages, train_on_trees
from agent.training.optimizer import TrainingSettings
from tests.agent.training.test_preference import opened

SETTINGS = TrainingSettings(num_steps=30, batch_size=8, learning_rate=3e-3, max_epochs=100)
GROUPS = [
    SiblingSteps((3 + i, 13, 4, 2), ((5, 1), (6, 1), (7, 1)), (0.9, 0.3, 0.0)) for i in range(4)
]
TEXTS = [Example((3 + i, 13, 4, 2, 8, 1), 4) for i in range(4)]


def step_logprobs(model, groups=GROUPS):  # type: ignore[no-untyped-def]
    rows = [g.given + step for g in groups for step in g.steps]
    with torch.no_grad():
        return counted_logprobs(model, rows, [4] * len(rows)).per_row().view(len(groups), -1)


def test_an_advantage_is_the_reward_less_the_mean_of_the_siblings() -> None:
    assert advantages((0.9, 0.3, 0.0), (1, 1, 1)) == pytest.approx([0.75, -0.15, -0.6])
    assert advantages((1.0, 0.0), (1, 1)) == [1.0, -1.0]
    assert advantages((0.5, 0.5, 0.5), (0.1, 2, 1)) == pytest.approx([0.0, 0.0, 0.0])


def test_a_step_counts_as_often_as_the_policy_would_have_drawn_it() -> None:
    """Of steps with .6, .3 and .1: weights 1.8, .9, .3, and the mean of the others by theirs."""
    found = advantages((1.0, 0.0, 0.5), (0.6, 0.3, 0.1))
    means = [(0.3 * 0 + 0.1 * 0.5) / 0.4, (0.6 * 1 + 0.1 * 0.5) / 0.7, 0.6 / 0.9]
    wanted = [1.8 * (1 - means[0]), 0.9 * (0 - means[1]), 0.3 * (0.5 - means[2])]
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("alike", [False, True])
def test_the_better_step_gains_probability_on_its_siblings(checkpoint: Path, alike: bool) -> None:
    model = opened(checkpoint)
    before = step_logprobs(model)
    report = train_on_trees(model, GROUPS, (), 0.0, Clip(), SETTINGS, 0, None, alike)
    gained = step_logprobs(model) - before
    assert (gained[:, 0] > 0).all()
    assert (gained[:, 0] > gained[:, 1]).all() and (gained[:, 0] > gained[:, 2]).all()
    if alike:  # else a likely step that is bad loses more than an unlikely one that is worse
        assert (gained[:, 1] > gained[:, 2]).all()
    assert report.num_examples == 12 and report.num_steps == 30
    assert report.last_loss < report.first_loss


def test_wider_bounds_let_a_step_gain_more(checkpoint: Path) -> None:
    gains, moved = [], []
    for clip in (Clip(), Clip(0.8, 4.0)):
        model = opened(checkpoint)
        before = step_logprobs(model)
        train_on_trees(model, GROUPS, (), 0.0, clip, SETTINGS, 0)
        gains.append(float((step_logprobs(model) - before)[:, 0].mean()))
        few = SETTINGS.model_copy(update={"num_steps": 10})
        moved.append(train_on_trees(opened(checkpoint), GROUPS, (), 0.0, clip, few, 0).moved)
    assert gains[1] > 1.5 * gains[0]
    assert moved[0] > moved[1]  # beyond its bounds nothing pulls a token any more


def test_texts_are_learned_beside_the_steps(checkpoint: Path) -> None:
    rows = [e.tokens for e in TEXTS]
    gained = []
    for texts, weight in ((TEXTS, 3.0), ((), 0.0)):
        model = opened(checkpoint)
        with torch.no_grad():
            before = counted_logprobs(model, rows, [4] * 4).per_row().mean()
        train_on_trees(model, GROUPS, texts, weight, Clip(), SETTINGS, 0)
        with torch.no_grad():
            gained.append(float(counted_logprobs(model, rows, [4] * 4).per_row().mean() - before))
    assert gained[0] > gained[1] + 0.5


def test_the_same_seed_gives_the_same_weights_from_trees(checkpoint: Path) -> None:
    found = []
    for seed in (0, 0, 1):
        model = opened(checkpoint)
        train_on_trees(model, GROUPS, TEXTS, 1.0, Clip(), SETTINGS, seed)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
