"""Training: the loss falls, the same seed gives the same weights, critics learn what is there."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.settings import CriticSettings, PolicyTraining
from agent.training.distillation import expected_acceptance
from agent.training.drafter import cut_drafter
from agent.training.early_stop import Snapshot
from agent.training.examples import (
    Example,
    JudgedExample,
    LabelledExample,
    batches,
    judged_rows,
    stretched_positions,
)
from agent.training.fit import DivergedError, planned_steps
from agent.training.head_critics import Judged, calibrated_loss, measure_critic, train_critic
from agent.training.job import Place
from agent.training.labelling import (
    Siblings,
    contrasted,
    label_rollouts,
    sibling_examples,
    suspicious,
    worth_repeating,
)
from agent.training.logprobs import counted_logprobs
from agent.training.methods.sft import SftJob, train_on_texts
from agent.training.mixture import mixed_examples, rows_to_train, with_dev
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import critic_settings
from agent.training.resume import Resume
from agent.training.stored_examples import as_examples
from agent.training.token_critics import measure_token_critic, train_token_critic
from search.interfaces import Rollout
from search.score import Score
from search.state import Option, State
from store.datasets import StoredText
from store.verdicts import StoredVerdict

SETTINGS = TrainingSettings(num_steps=40, batch_size=8, learning_rate=3e-3, max_epochs=100)
ROWS = [Example((3 + i, 13, 3 + j, 2, 3 + i, 1), 4) for i in range(6) for j in range(6)]


def test_the_loss_falls_and_only_the_models_own_tokens_are_learned(checkpoint: Path) -> None:
    decoder = load_model(verify_checkpoint(checkpoint))
    report = train_on_texts(decoder, ROWS, SETTINGS, seed=0)
    assert report.last_loss < 0.5 * report.first_loss
    with torch.no_grad():
        logits = decoder.lm_head(decoder(torch.tensor([[5, 13, 4, 2]])))
    assert int(logits[0, -1].argmax()) == 5


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_same_seed_gives_the_same_weights(
    checkpoint: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = SETTINGS.model_copy(
        update={"num_steps": 8, "optimizer": optimizer, "position_span": 20}
    )
    made = [
        SftJob(
            role="policy", parent=str(checkpoint), settings=settings, seed=seed, examples=ROWS
        ).run(Place(str(tmp_path / str(i))))
        for i, seed in enumerate((1, 1, 2))
    ]
    assert made[0].version == made[1].version != made[2].version
    assert made[0].parent_version == verify_checkpoint(checkpoint).version


def test_epochs_are_capped() -> None:
    settings = TrainingSettings(num_steps=400, batch_size=10, max_epochs=2)
    assert planned_steps(100, settings) == 20
    assert planned_steps(100_000, settings) == 400


def test_a_diverging_loss_stops_training(checkpoint: Path) -> None:
    decoder = load_model(verify_checkpoint(checkpoint))
    with torch.no_grad():
        decoder.model.norm.weight.fill_(float("inf"))
    with pytest.raises(DivergedError, match="step 1"):
        train_on_texts(decoder, ROWS, SETTINGS, seed=0)


def test_batches_see_every_row_once_an_epoch() -> None:
    import numpy as np

    rows = list(batches([5, 3, 9, 1, 7], 2, 3, np.random.default_rng(0)))
    assert sorted(i for part in rows for i in part) == [0, 1, 2, 3, 4]


def test_stretched_positions_are_sorted_different_and_within_the_span() -> None:
    found = stretched_positions(200, 12, 40, torch.Generator().manual_seed(0))
    assert bool((found[:, 1:] > found[:, :-1]).all())
    assert int(found.min()) >= 0 and int(found.max()) < 40
    spread = found[:, -1] - found[:, 0]
    assert int(spread.min()) < 16 and int(spread.max()) > 30


def test_a_critic_learns_what_its_labels_say_and_is_calibrated(checkpoint: Path) -> None:
    policy = load_model(verify_checkpoint(checkpoint))
    critic = policy.as_critic()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 13, (200, 6), generator=generator).tolist()
    examples = [LabelledExample(tuple(r), (3, 5), (float(r[3] > 7), float(r[5] > 7))) for r in rows]
    before = measure_critic(critic, examples[100:])
    train_critic(
        critic,
        examples[:80],
        examples[80:100],
        SETTINGS.model_copy(update={"num_steps": 120}),
        seed=0,
    )
    after = measure_critic(critic, examples[100:])
    assert before["auc"] == 0.5
    assert after["auc"] > 0.9
    assert after["brier"] < before["brier"]


def test_a_drafter_is_the_policys_first_blocks(checkpoint: Path) -> None:
    policy = load_model(verify_checkpoint(checkpoint))
    drafter = cut_drafter(policy)
    assert drafter.arch.num_layers == 1
    for name, parameter in drafter.named_parameters():
        assert torch.equal(parameter, dict(policy.named_parameters())[name])
    assert expected_acceptance(policy, policy, ROWS) == pytest.approx(1.0, abs=1e-5)
    before = expected_acceptance(policy, drafter, ROWS)
    texts = [Example((3, 13, 4, 2, t, 1), 4) for t in range(3, 13)]
    train_on_texts(policy, texts, SETTINGS, 0)
    train_on_texts(drafter, texts, SETTINGS, 0)
    assert 0 < before < 1 and expected_acceptance(policy, drafter, texts) > 0.8


def test_a_whole_text_carries_what_the_task_holds_against_it() -> None:
    texts = labelled_texts({"0" * 20: ["a", "b"]})
    found = label_rollouts(
        texts,
        lambda r: r.answer == "a",
        lambda r, i: True,
        [],
        lambda key: False,
        doubts=lambda state: (0.5, float(len(state.options))),
    )
    assert [row.doubts for row in judged_rows(found.outcome.train)] == [(0.5, 1.0)] * 2
    assert {row.doubts for row in judged_rows(found.process.train)} == {()}


def test_labels_follow_answer_and_tool() -> None:
    start = State("0" * 20, (1, 2), "p")
    good = start.extended(Option((3, 4), "a\n", 0, "boundary")).extended(
        Option((5,), "b", 0, "end")
    )
    cut = start.extended(Option((3, 4), "a\n", 0, "boundary")).extended(
        Option((5,), "b", 0, "length")
    )
    score = Score("outcome", "", None)
    rollouts = [Rollout(s, 0, 0, None, score, "b") for s in (good, cut)]
    found = label_rollouts(
        rollouts, lambda r: r.state is good, lambda r, i: i == 1, [], lambda key: False
    )
    value, cut_value = found.value.train
    assert isinstance(value, LabelledExample) and isinstance(cut_value, LabelledExample)
    assert value.places == (1, 3, 4) and value.labels == (1.0, 1.0, 1.0)
    assert cut_value.labels == (0.0, 0.0, 0.0)
    # What comes after an unsound step is not judged.
    assert found.process.train == [JudgedExample((1, 2, 3, 4), 2, False)] * 2
    # The answer is right but its working is not: the outcome critic must not learn to like it.
    assert found.outcome.train == [JudgedExample((1, 2, 3, 4, 5), 2, False)]
    assert found.outcome.classes == {False} and found.value.classes == {True, False}


def labelled_texts(answers: dict[str, list[str]]) -> list[Rollout]:
    score = Score("outcome", "", None)
    found = []
    for problem, given in answers.items():
        for i, answer in enumerate(given):
            state = State(problem, (1, 2), "p").extended(Option((3 + i,), answer, 0, "end"))
            found.append(Rollout(state, 0, 0, None, score, answer))
    return found


def test_a_reference_answer_that_the_policy_keeps_contradicting_is_suspect() -> None:
    texts = labelled_texts(
        {
            "planted": ["7", "7", "7", "2"],
            "hard": ["1", "2", "3", "4"],
            "right": ["5", "7", "7"],
            "few": ["7", "7"],
        }
    )
    right = {"planted": "9", "hard": "9", "right": "5", "few": "9"}
    is_correct = {id(r): r.answer == right[r.state.problem_id] for r in texts}
    assert suspicious(texts, lambda r: is_correct[id(r)]) == ["planted"]
    unsound = [replace(r, is_sound=False) for r in texts]
    assert suspicious(unsound, lambda r: False) == []


def test_texts_worth_repeating_are_right_and_not_always_written() -> None:
    texts = labelled_texts({"always": ["7", "7"], "never": ["1", "2"], "at times": ["7", "1", "7"]})
    found = worth_repeating(texts, lambda r: r.answer == "7")
    assert [state.tokens for state in found] == [(1, 2, 3), (1, 2, 5)]
    (first,) = worth_repeating(texts, lambda r: r.answer == "7", most=1)
    assert first.tokens == (1, 2, 3)


def test_right_texts_that_no_sample_was_are_worth_repeating_too_doubted_ones_last() -> None:
    def is_right(rollout: Rollout) -> bool:
        return rollout.answer == "7"

    samples = labelled_texts({"always": ["7"], "never": ["1", "2"], "at times": ["7", "1"]})
    others = labelled_texts({"always": ["7"], "never": ["7", "3"], "at times": ["7"]})
    others = [
        replace(r, state=replace(r.state, options=(*r.state.options, Option((9,), "", 0.0, "end"))))
        for r in others
    ]
    found = worth_repeating(samples, is_right, others)
    wanted = (others[1], samples[3], others[3])
    assert [e.tokens for e in found] == [r.state.tokens for r in wanted]

    def of_long_ones(state: State) -> tuple[float, ...]:
        return (float(len(state.options) < 2),)

    best = worth_repeating(samples, is_right, others, of_long_ones, most=1)
    assert [e.tokens for e in best] == [others[1].state.tokens, others[3].state.tokens]


def test_dev_texts_are_set_aside_whole_and_only_when_there_are_enough() -> None:
    few = [Example((i, 1), 1) for i in range(100)]
    assert with_dev(few) == (few, [])
    many = [Example((i % 300, 1), 1) for i in range(600)]
    train, dev = with_dev(many)
    assert 5 <= len(dev) <= 25 and not set(train) & set(dev)
    assert len(train) == 600 - 2 * len(dev)
    _, later = with_dev([Example((i, 1), 1) for i in range(250, 900)])
    assert {t for t in later if t.tokens[0] < 300} == {t for t in dev if t.tokens[0] >= 250}


def test_a_wrong_option_goes_wrong_where_it_leaves_its_good_siblings() -> None:
    state = State("0", (1, 2), "p")
    options = tuple(Option(t, "", 0, "boundary") for t in ((3, 4, 9), (3, 5, 9), (7, 9), (3, 4)))
    found = sibling_examples(Siblings(state, options, (True, False, False, False)))
    assert [(e.is_good, e.first_wrong) for e in found] == [
        (True, None),
        (False, 3),
        (False, 2),
        (False, None),
    ]
    assert all(e.num_given == 2 and e.tokens[:2] == (1, 2) for e in found)
    unknown = sibling_examples(Siblings(state, options[1:], (False, False, False)))
    assert [e.first_wrong for e in unknown] == [None, None, None]


def test_a_token_critic_starts_as_the_policy_and_learns_which_tokens_are_wrong(
    checkpoint: Path,
) -> None:
    critic = load_model(verify_checkpoint(checkpoint))
    # A row 3+i 13 3+j 2 x is good exactly when x repeats its first token.
    rows = [
        JudgedExample((3 + i, 13, 3 + j, 2, 3 + k, 1), 4, k == i, None if k == i else 4)
        for i in range(6)
        for j in range(6)
        for k in (i, (i + 1 + j) % 6)
    ]
    rows += [replace(r, first_wrong=None) for r in rows[:20]]
    with torch.no_grad():
        tokens = torch.tensor([rows[0].tokens])
        logprob = torch.log_softmax(critic.lm_head(critic(tokens)), -1)
        expected = float(logprob[0, 3, tokens[0, 4]] + logprob[0, 4, 1])
        found = counted_logprobs(critic, [rows[0].tokens], [rows[0].num_given]).per_row()
    assert float(found) == pytest.approx(expected, abs=1e-5)
    before = measure_token_critic(critic, rows[1::2])
    report = train_token_critic(critic, rows[::2], rows[1::2], SETTINGS, seed=0)
    after = measure_token_critic(critic, rows[1::2])
    assert report["held_out_loss"] < 0.5 * report["held_out_loss_before"]
    assert after["auc"] > 0.95 > before["auc"]


def test_a_head_that_ranks_well_and_is_too_sure_is_better_than_none() -> None:
    """Early stopping asks calibrated scores: the plain loss would have kept a head of zeros."""
    rng = random.Random(4)
    labels = [float(rng.random() < 0.2) for _ in range(400)]
    sure = [8.0 * (rng.gauss(1.0 if y else -0.5, 1.0) + 2.0) for y in labels]

    def halves(logits: list[float]) -> tuple[Judged, Judged]:
        return Judged(logits[::2], labels[::2]), Judged(logits[1::2], labels[1::2])

    plain = F.binary_cross_entropy_with_logits(torch.tensor(sure), torch.tensor(labels))
    constant = calibrated_loss(*halves([0.0] * 400))
    assert constant == pytest.approx(0.5, abs=0.05) and float(plain) > 3 * constant
    assert calibrated_loss(*halves(sure)) < 0.85 * constant
    noise = [rng.gauss(0.0, 5.0) for _ in labels]
    assert calibrated_loss(*halves(noise)) > 0.98 * constant


def test_what_the_task_holds_against_a_text_is_part_of_the_outcome_score(
    checkpoint: Path,
) -> None:
    """Of texts between which the critic sees no difference: every doubted one is wrong."""
    critic = load_model(verify_checkpoint(checkpoint))
    rows = [
        JudgedExample((3, 13, 4, 2, 3 + i % 3, 1), 4, i % 3 == 0, doubts=(float(i % 3 > 0), 0.0))
        for i in range(60)
    ]
    silent = measure_token_critic(critic, [replace(r, doubts=()) for r in rows])
    told = measure_token_critic(critic, rows)
    assert silent["calibration"]["doubts"] == ()
    assert told["auc_with_doubts"] == 1.0 and told["brier"] < 0.1
    # The critic is believed for what it says itself, and that may be asked for alone.
    assert told["auc"] == silent["auc"]
    assert told["calibration_alone"] == silent["calibration"]
    assert "calibration_alone" not in silent and "auc_with_doubts" not in silent
    assert told["calibration"]["doubts"][0] < -1.0


def test_the_weights_kept_are_those_that_did_best_on_held_out_texts() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    losses = iter([3.0, 1.0, 2.0])
    torch.nn.init.constant_(model.weight, 0.0)
    snapshot = Snapshot(model, lambda: next(losses), num_steps=2, num_looks=2)
    for step in (1, 2):
        torch.nn.init.constant_(model.weight, float(step))
        snapshot.after(step, 2)
    snapshot.restore()
    assert float(model.weight.detach()) == 1.0
    assert (snapshot.first_loss, snapshot.best_loss, snapshot.best_step) == (3.0, 1.0, 1)


@pytest.mark.parametrize(("last", "kept"), [(1.05, 2.0), (1.2, 1.0)])
def test_a_policy_keeps_its_last_weights_unless_they_are_clearly_overfitted(
    last: float, kept: float
) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    losses = iter([0.5, 1.0, last])
    snapshot = Snapshot(model, lambda: next(losses), 2, 2, may_stay=False)
    for step in (1, 2):
        torch.nn.init.constant_(model.weight, float(step))
        snapshot.after(step, 2)
    snapshot.restore()
    assert (float(model.weight.detach()), snapshot.best_step) == (kept, int(kept))


def test_a_critic_that_stays_as_it_was_is_published_with_its_measurement(
    checkpoint: Path, tmp_path: Path
) -> None:
    parent = verify_checkpoint(checkpoint)
    decoder = load_model(parent)
    made = [
        publish(decoder, parent, tmp_path, "outcome", {"report": report})
        for report in ({}, {"auc": 0.4}, {"auc": 0.4})
    ]
    assert made[0].version != made[1].version == made[2].version
    assert made[1].notes["report"] == {"auc": 0.4}


@pytest.mark.parametrize(("may_stay", "kept"), [(True, 0.0), (False, 2.0)])
def test_a_policy_may_not_stay_as_it_was_a_critic_may(may_stay: bool, kept: float) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    losses = iter([1.0, 3.0, 2.0])
    torch.nn.init.constant_(model.weight, 0.0)
    snapshot = Snapshot(model, lambda: next(losses), 2, 2, may_stay)
    for step in (1, 2):
        torch.nn.init.constant_(model.weight, float(step))
        snapshot.after(step, 2)
    snapshot.restore()
    assert float(model.weight.detach()) == kept and snapshot.first_loss == 1.0


def test_replayed_demonstrations_make_up_their_share() -> None:
    texts = as_examples([StoredText((1,), (2, 3))] * 65)
    mixed = mixed_examples(texts, ROWS, 0.35, 200, 0)
    assert mixed.count(Example((1, 2, 3), 1)) == 130
    assert len(mixed) == 200
    assert set(mixed[130:]) == set(ROWS)
    assert mixed_examples(texts, [], 0.35, 10, 0) == [Example((1, 2, 3), 1)] * 10


def test_where_there_is_no_room_for_all_texts_none_of_their_kinds_is_left_out() -> None:
    texts = [Example((i, 1), 1) for i in range(1000)]
    rows = mixed_examples(texts, [], 0.0, 100, 3)
    assert len(set(rows)) == 100 and 30 < sum(r.tokens[0] >= 500 for r in rows) < 70
    assert rows == mixed_examples(texts, [], 0.0, 100, 3) != mixed_examples(texts, [], 0.0, 100, 4)


def test_few_finds_mean_few_steps() -> None:
    config = PolicyTraining(num_steps=400, batch_size=10, max_epochs=4, replay_share=0.5)
    assert rows_to_train(config, 50, True) == (40, 400)
    assert rows_to_train(config, 50, False) == (20, 200)
    assert rows_to_train(config, 100_000, True) == (400, 4000)
    assert rows_to_train(config, 1, True)[0] == 1


def test_parts_of_a_batch_add_up_to_the_batch(checkpoint: Path) -> None:
    states = []
    for micro_tokens in (0, 7, 24):
        decoder = load_model(verify_checkpoint(checkpoint))
        settings = SETTINGS.model_copy(update={"num_steps": 3, "micro_tokens": micro_tokens})
        report = train_on_texts(decoder, ROWS, settings, seed=0)
        states.append((report.first_loss, decoder.state_dict()))
    for loss, state in states[1:]:
        assert loss == pytest.approx(states[0][0], rel=1e-5)
        for name, weight in state.items():
            assert torch.allclose(weight, states[0][1][name], atol=1e-5), name


def test_products_in_bfloat16_leave_weights_in_float32_and_lower_the_loss(checkpoint: Path) -> None:
    decoder = load_model(verify_checkpoint(checkpoint))
    settings = SETTINGS.model_copy(update={"dtype": "bfloat16"})
    report = train_on_texts(decoder, ROWS, settings, seed=0, dev=ROWS[:4])
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    assert report.last_loss < 0.5 * report.first_loss
    whole = load_model(verify_checkpoint(checkpoint))
    same = train_on_texts(whole, ROWS, SETTINGS.model_copy(update={"dtype": "float32"}), seed=0)
    assert report.first_loss == pytest.approx(same.first_loss, rel=0.05)
    assert report.first_loss != same.first_loss


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("has_dev", [False, True])
def test_a_training_that_is_killed_goes_on_to_the_same_weights(
    checkpoint: Path, tmp_path: Path, optimizer: str, has_dev: bool
) -> None:
    settings = SETTINGS.model_copy(
        update={"num_steps": 20, "optimizer": optimizer, "position_span": 20}
    )
    dev = ROWS[:6] if has_dev else []
    whole = load_model(verify_checkpoint(checkpoint))
    report = train_on_texts(whole, ROWS, settings, 3, dev=dev)

    class Killed(Exception):
        pass

    def killed(step: int, num: int, loss: float) -> None:
        if step == 10:
            raise Killed

    file = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        train_on_texts(
            load_model(verify_checkpoint(checkpoint)),
            *(ROWS, settings, 3, killed, dev, Resume(file, "job", every_s=0.0)),
        )
    assert file.is_file()
    decoder, steps = load_model(verify_checkpoint(checkpoint)), []
    again = train_on_texts(
        decoder,
        *(ROWS, settings, 3, lambda step, num, loss: steps.append(step), dev),
        Resume(file, "job", every_s=0.0),
    )
    assert steps == [10, 20] and again == report  # nine steps were not taken again
    for name, weight in decoder.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[name]), name
    other = Resume(file, "another job")
    started = load_model(verify_checkpoint(checkpoint))
    train_on_texts(started, ROWS, settings, 3, dev=dev, resume=other)
    assert torch.equal(started.head, whole.head)  # the file of another job is not used


def test_parts_of_a_critics_batch_add_up_to_the_batch(checkpoint: Path) -> None:
    judged = [
        JudgedExample((3 + i, 13, 3 + j, 2, 3 + i, 1), 4, is_good=i == j, first_wrong=None)
        for i in range(5)
        for j in range(5)
    ]
    labelled = [LabelledExample(e.tokens, (3, 5), (0.5, float(e.is_good))) for e in judged]
    policy = load_model(verify_checkpoint(checkpoint))
    for has_head in (False, True):
        found = []
        for micro_tokens in (0, 13):
            settings = SETTINGS.model_copy(update={"num_steps": 3, "micro_tokens": micro_tokens})
            critic = policy.as_critic() if has_head else load_model(verify_checkpoint(checkpoint))
            if has_head:
                report = train_critic(critic, labelled, (), settings, 0)
            else:
                report = train_token_critic(critic, judged, (), settings, 0)
            found.append((report["loss"], critic.state_dict()))
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
        for name, weight in found[0][1].items():
            assert torch.allclose(weight, found[1][1][name], atol=1e-4), name


def test_texts_of_one_verdict_alone_teach_critics_nothing() -> None:
    def told(is_good: bool, n: int) -> StoredVerdict:
        return StoredVerdict((1,), (n,), is_good, (1,), (None,))

    good = [told(True, n) for n in range(9)]
    bad = [told(False, n) for n in range(2)]
    assert contrasted(good) == [] and contrasted(bad) == []
    assert contrasted([*good, *bad]) == [*good[:6], *bad]
    assert contrasted([*bad, *good[:3]]) == [*bad, *good[:3]]


def test_a_head_has_the_rate_that_is_set_and_other_critics_their_share() -> None:
    base = TrainingSettings(learning_rate=3e-5)
    plain = CriticSettings(steps=7)
    own = CriticSettings(steps=7, head_rate=1e-3)
    assert critic_settings(plain, base, has_head=True).learning_rate == 3e-5
    assert critic_settings(own, base, has_head=True).learning_rate == 1e-3
    for config in (plain, own):
        token = critic_settings(config, base, has_head=False)
        assert token.learning_rate == pytest.approx(0.17 * 3e-5) and token.num_steps == 7
