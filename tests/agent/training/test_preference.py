"""Preference and on-policy training: what moves, which way, and the same way every time."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.networks.llama import Decoder
from agent.training.clipped import clipped_loss
from agent.training.examples import Example, PairExample, StoredState
from agent.training.logprobs import counted_logprobs
from agent.training.methods.dpo import PairData, PreferenceSettings, follow, train_on_pairs
from agent.training.methods.dr_po import (
    GradientSettings,
    Practice,
    _by_trajectory,
    _draw,
    _drawn,
    train_from_states,
)
from agent.training.methods.sft import mean_loss
from agent.training.optimizer import TrainingSettings

SETTINGS = TrainingSettings(num_steps=60, batch_size=16, learning_rate=2e-3, max_epochs=1000)
PAIRS = [
    PairExample((3 + i, 13, 3 + j, 2), (3 + i, 1), (3 + (i + 1) % 6, 1))
    for i in range(6)
    for j in range(6)
]

TEXTS = [Example(p.given + p.chosen, len(p.given)) for p in PAIRS]


def opened(checkpoint: Path) -> Decoder:
    model = load_model(verify_checkpoint(checkpoint))
    assert isinstance(model, Decoder)
    return model


def margin(decoder: Decoder) -> float:
    """Mean log-probability of the chosen first token less the rejected one's."""
    with torch.no_grad():
        logits = decoder.lm_head(decoder(torch.tensor([p.given for p in PAIRS])))[:, -1]
    chosen = torch.tensor([p.chosen[0] for p in PAIRS])
    rejected = torch.tensor([p.rejected[0] for p in PAIRS])
    row = torch.arange(len(PAIRS))
    return float((logits[row, chosen] - logits[row, rejected]).mean())


def test_dpo_starts_at_log_two_and_comes_to_prefer_the_chosen_options(checkpoint: Path) -> None:
    decoder = opened(checkpoint)
    before = margin(decoder)
    preference = PreferenceSettings(beta=0.5, sft_weight=0.0)
    one_step = SETTINGS.model_copy(update={"num_steps": 1})
    first = train_on_pairs(copy.deepcopy(decoder), PairData(PAIRS), one_step, preference, 0)
    assert first.first_loss == pytest.approx(0.693147, abs=1e-4)
    report = train_on_pairs(decoder, PairData(PAIRS), SETTINGS, preference, 0)
    assert report.last_loss < 0.5 * report.first_loss
    assert report.accuracy > 0.95 and margin(decoder) > before + 1


def test_texts_beside_the_pairs_are_learned_and_with_weight_zero_left_out(
    checkpoint: Path,
) -> None:
    other = [Example((9, 13, 8, 2, 12, 1), 4)]
    losses, weights = {}, {}
    for name, weight, texts in (("beside", 10.0, other), ("zero", 0.0, other), ("none", 10.0, [])):
        decoder = opened(checkpoint)
        settings = PreferenceSettings(sft_weight=weight)
        report = train_on_pairs(decoder, PairData(PAIRS, texts), SETTINGS, settings, 0)
        losses[name] = mean_loss(decoder, other)
        weights[name] = torch.cat([p.detach().flatten() for p in decoder.parameters()])
        assert report.accuracy > 0.9
    assert losses["beside"] < 0.2 < 1.0 < losses["none"]
    assert torch.equal(weights["zero"], weights["none"])


def test_a_hard_update_makes_the_reference_the_policy_and_a_soft_one_mixes(
    checkpoint: Path,
) -> None:
    policy = opened(checkpoint)
    with torch.no_grad():
        policy.model.norm.weight.fill_(3.0)
    for update, alpha, expected in (("none", 0.6, 1.0), ("soft", 0.6, 2.2), ("hard", 0.6, 3.0)):
        reference = opened(checkpoint)
        with torch.no_grad():
            reference.model.norm.weight.fill_(1.0)
        settings = PreferenceSettings(reference_update=update, reference_alpha=alpha)  # type: ignore[arg-type]
        follow(reference, policy, settings)
        assert float(reference.model.norm.weight.detach()[0]) == pytest.approx(expected)


def test_a_reference_that_follows_changes_what_is_learned(checkpoint: Path) -> None:
    weights = {}
    for update in ("none", "soft", "hard"):
        decoder = opened(checkpoint)
        settings = PreferenceSettings(reference_update=update, reference_steps=10)  # type: ignore[arg-type]
        train_on_pairs(decoder, PairData(PAIRS, TEXTS), SETTINGS, settings, 0)
        weights[update] = torch.cat([p.detach().flatten() for p in decoder.parameters()])
    assert not torch.equal(weights["none"], weights["soft"])
    assert not torch.equal(weights["soft"], weights["hard"])


def test_a_soft_reference_moves_by_a_little_often_and_a_hard_one_far_and_seldom() -> None:
    soft, hard = (PreferenceSettings(reference_update=kind) for kind in ("soft", "hard"))  # type: ignore[arg-type]
    assert (soft.steps_between(600), soft.reference_alpha) == (8, 0.1)
    assert (hard.steps_between(600), hard.steps_between(90), hard.steps_between(1)) == (128, 30, 1)
    set_by_hand = PreferenceSettings(reference_update="hard", reference_steps=5)
    assert set_by_hand.steps_between(600) == 5


def test_a_reference_that_prefers_the_worse_step_counts_as_one_that_prefers_neither(
    checkpoint: Path,
) -> None:
    """The first loss is -log sigmoid(beta (margin - max(0, margin))), the policy being its own
    reference: log 2 where the margin is positive, more by it where it is not."""
    decoder = opened(checkpoint)
    rows = [p.given + p.chosen for p in PAIRS] + [p.given + p.rejected for p in PAIRS]
    given = [len(p.given) for p in PAIRS] * 2
    with torch.no_grad():
        sums = counted_logprobs(decoder, rows, given).per_row()
    margin = sums[: len(PAIRS)] - sums[len(PAIRS) :]
    assert (margin > 0).any() and (margin < 0).any()
    expected = -torch.nn.functional.logsigmoid(margin.clamp(max=0)).mean().item()
    once = TrainingSettings(num_steps=1, batch_size=2 * len(PAIRS), learning_rate=1e-9)
    losses = {
        clips: train_on_pairs(
            opened(checkpoint),
            PairData(PAIRS),
            once,
            PreferenceSettings(beta=1.0, sft_weight=0.0, clips_reference=clips),
            0,
        ).first_loss
        for clips in (False, True)
    }
    assert losses[False] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[True] == pytest.approx(expected, abs=1e-4) and losses[True] > losses[False]


def test_preference_training_repeats_itself(checkpoint: Path) -> None:
    made = []
    for seed in (1, 1, 2):
        decoder = opened(checkpoint)
        short = SETTINGS.model_copy(update={"num_steps": 5})
        train_on_pairs(decoder, PairData(PAIRS, TEXTS), short, PreferenceSettings(), seed)
        made.append(torch.cat([p.detach().flatten() for p in decoder.parameters()]))
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


def run_gradient(checkpoint: Path, seed: int, num_steps: int = 40) -> tuple[Decoder, float, float]:
    """Reward 1 for texts whose first token after the state is a 7 (token 10)."""
    decoder = opened(checkpoint)
    tokenizer = Tokenizer(checkpoint)
    engine = TorchEngine(decoder, tokenizer.steps, tokenizer.end_ids)
    states = [StoredState((3 + i, 13, 4, 2), 3) for i in range(5)]

    def reward(texts: object) -> list[float]:
        assert isinstance(texts, list)
        return [float(tokens[4] == 10) for tokens, _ in texts]

    report = train_from_states(
        decoder,
        Practice(states, engine, reward),
        SETTINGS.model_copy(update={"num_steps": num_steps, "learning_rate": 1e-2}),
        GradientSettings(num_states=6, num_texts=4, max_tokens=3, kl_weight=0.001),
        seed,
    )
    return decoder, report.first_reward, report.last_reward


def test_a_token_that_moved_far_pulls_no_further_in_the_same_direction() -> None:
    """min(r A, clip(r) A): r = 1.5 with A = 1 is cut to 1.2 and has no gradient, with A = -1 it
    counts whole."""
    for moved, advantage, loss, gradient in (
        (1.5, 1.0, -1.2, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.5, -1.0, 0.8, 0.0),
        (0.5, 1.0, -0.5, -0.5),
        (1.0, 2.0, -2.0, -2.0),
    ):
        logprob = torch.tensor([math.log(moved)], requires_grad=True)
        found = clipped_loss(logprob, torch.zeros(1), torch.tensor([advantage]))
        found.backward()
        assert found.item() == pytest.approx(loss)
        assert logprob.grad is not None
        assert logprob.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_a_draw_takes_trajectories_alike_whatever_their_length() -> None:
    states = [StoredState((3, i), 1, 0) for i in range(9)] + [StoredState((4, 1), 1, 1)]
    groups = _by_trajectory(states)
    assert [len(g) for g in groups] == [9, 1]
    drawn = _drawn(groups, 2_000, np.random.default_rng(0))
    assert sum(s.trajectory for s in drawn) == pytest.approx(1_000, abs=100)
    assert {s.tokens for s in drawn} == {s.tokens for s in states}


def test_a_text_pays_for_leaving_the_starting_policy_in_its_reward(checkpoint: Path) -> None:
    """Equal scores: what is left of the advantage is the log-ratio, less its siblings'."""
    model, reference = opened(checkpoint), opened(checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    state = StoredState((5, 13, 4, 2), 3)
    texts = [(state, (*state.tokens, 3 + i, 1)) for i in range(4)]
    gradient = GradientSettings(num_states=1, num_texts=4, kl_weight=2.0)
    draw = _draw(model, reference, texts, [0.5] * len(texts), gradient)
    rows = [tokens for _, tokens in texts]
    with torch.no_grad():
        ours, theirs = (counted_logprobs(m, rows, [4] * 4).per_row() for m in (model, reference))
    cost = 2.0 * (ours - theirs)
    expected = -(cost - (cost.sum() - cost) / 3)
    assert draw.advantage[:, -1] == pytest.approx(expected, abs=1e-5)
    assert draw.advantage.std() > 0.01 and draw.reward == 0.5
    same = _draw(reference, reference, texts, [0.5] * len(texts), gradient)
    assert same.divergence == 0 and not same.advantage.any()


def test_steps_on_one_draw_write_no_further_texts(checkpoint: Path) -> None:
    decoder = opened(checkpoint)
    tokenizer = Tokenizer(checkpoint)
    engine = TorchEngine(decoder, tokenizer.steps, tokenizer.end_ids)
    num_scored = []
    train_from_states(
        decoder,
        Practice(
            [StoredState((5, 13, 4, 2), 3)],
            engine,
            lambda texts: num_scored.append(len(texts)) or [float(len(t[0])) for t in texts],  # type: ignore[func-returns-value]
        ),
        SETTINGS.model_copy(update={"num_steps": 7}),
        GradientSettings(num_states=2, num_texts=3, max_tokens=2, num_epochs=3),
        0,
    )
    assert num_scored == [6, 6, 6]


def test_on_policy_training_raises_the_reward_from_the_stored_states(checkpoint: Path) -> None:
    decoder, first, last = run_gradient(checkpoint, 0)
    assert first < 0.4 and last > first + 0.3
    again, _, _ = run_gradient(checkpoint, 0)
    for left, right in zip(decoder.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_divergence_holds_the_policy_where_it_began(checkpoint: Path) -> None:
    decoder = opened(checkpoint)
    tokenizer = Tokenizer(checkpoint)
    engine = TorchEngine(decoder, tokenizer.steps, tokenizer.end_ids)
    reports = []
    for weight in (0.0, 10.0):
        policy = opened(checkpoint)
        reports.append(
            train_from_states(
                policy,
                Practice(
                    [StoredState((5, 13, 4, 2), 3)],
                    engine,
                    lambda texts: [float(t[0][4] == 10) for t in texts],
                ),
                SETTINGS.model_copy(update={"num_steps": 20, "learning_rate": 1e-2}),
                GradientSettings(num_states=4, num_texts=4, max_tokens=2, kl_weight=weight),
                0,
            )
        )
    assert reports[1].divergence < 0.5 * reports[0].divergence
