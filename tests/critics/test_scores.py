"""Scores: a missing one is no zero; calibration and its measures agree with hand-made cases."""

import math
import random
from dataclasses import replace

import pytest

from critics.answer import boxed, final_answer
from critics.blend import blend
from critics.calibration import (
    Calibration,
    auc,
    brier,
    expected_calibration_error,
    fit_calibration,
)
from critics.equality import normal_form, same_answer
from critics.outcome import OutcomeCritic
from critics.process import ProcessCritic
from critics.rollout import checked_rollout, cut_into_options, scored
from critics.value import ValueCritic
from search.score import Finding, Score
from search.state import Option, State

START = State("p", (1, 2), "p\n")
STEP = Option((3, 4), "a\n", -0.5, "boundary")
LAST = Option((5, 0), "b", -0.5, "end")
CUT = Option((5,), "b", -0.5, "length")


def test_the_blend_is_a_weighted_mean_of_what_is_there() -> None:
    scores = [Score("value", "v", 0.2), Score("process", "v", None), Score("outcome", "v", 0.8)]
    assert blend(scores, {"value": 1.0, "process": 5.0, "outcome": 3.0}) == pytest.approx(0.65)
    assert blend(scores, {"process": 1.0}) is None
    assert blend([], {"value": 1.0}) is None


def test_several_rollouts_count_as_their_mean() -> None:
    scores = [Score("value", "v", 0.0), Score("outcome", "v", 1.0), Score("outcome", "v", 0.5)]
    assert blend(scores, {"value": 1.0, "outcome": 1.0}) == pytest.approx(0.375)


def test_a_critic_scores_only_what_it_knows_of_and_never_passes_on_nan() -> None:
    middle, cut = START.extended(STEP), START.extended(CUT)
    end = middle.extended(LAST)
    states = [START, middle, end, cut]
    values = [s.value for s in ValueCritic("v").score(states, [0.0, float("nan"), 0.0])]
    assert values == [0.5, None, 0.5, None]
    assert "nan" in ValueCritic("v").score([middle], [float("nan")])[0].reason
    process = ProcessCritic("v").score(states, [float("inf"), 0.0, 0.0])
    assert [s.value for s in process] == [None, None, 0.5, 0.5]
    outcome = OutcomeCritic("v", Calibration(1.0, 30.0)).score(states, [0.0])
    assert [s.value for s in outcome] == [None, None, pytest.approx(1.0), None]
    doubting = OutcomeCritic("v", Calibration(1.0, 0.0, doubts=(-1.0,)))
    (score,) = doubting.score([end], [0.0], lambda state: (float("nan"),))
    assert score.value is None and score.reason == "the task's doubts are (nan,)"


def test_auc_counts_pairs_in_the_right_order() -> None:
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(0.75)
    assert auc([0.5, 0.5], [0, 1]) == 0.5
    assert auc([0.5, 0.6], [1, 1]) is None


def test_brier_and_calibration_error_of_a_known_case() -> None:
    assert brier([0.0, 1.0, 0.5], [0, 1, 1]) == pytest.approx(0.25 / 3)
    assert expected_calibration_error([0.25, 0.25, 0.25, 0.25], [1, 0, 0, 0]) == pytest.approx(0)
    assert expected_calibration_error([0.95, 0.95], [0, 0]) == pytest.approx(0.95)


def test_calibration_restores_the_true_frequency() -> None:
    logits = [2.0] * 100 + [-2.0] * 100
    labels = [1.0] * 70 + [0.0] * 30 + [1.0] * 10 + [0.0] * 90
    fitted = fit_calibration(logits, labels)
    assert fitted.apply(2.0) == pytest.approx(0.7, abs=0.02)
    assert fitted.apply(-2.0) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("72.0", "72"), ("$72", "$72"), ("1,234", "1234"), ("3.50", "7/2"), (" x+1 ", "x+1")],
)
def test_equal_numbers_have_one_form(text: str, wanted: str) -> None:
    assert normal_form(text) == wanted


def test_one_class_keeps_the_ranking_around_the_share_that_was_seen() -> None:
    """A critic of which only right texts were seen must not say one in ten million."""
    fitted = fit_calibration([-16.0, -15.0, -14.0], [1, 1, 1])
    low, middle, high = (fitted.apply(x) for x in (-16.0, -15.0, -14.0))
    assert low < middle < high and middle == pytest.approx(0.8, abs=0.03)  # (3 + 1) / (3 + 2)
    assert fit_calibration([], []) == Calibration()


def test_three_positives_in_fifty_are_not_taken_at_their_word() -> None:
    """The log-odds of whole texts of a pretrained model, as they came: all far below zero."""
    rng = random.Random(3)
    labels = [1] * 3 + [0] * 47
    logits = [-12.0] * 3 + [rng.gauss(-20, 2) for _ in range(47)]  # parted without an overlap
    fitted = fit_calibration(logits, labels)
    scores = [fitted.apply(x) for x in logits]
    assert sum(scores) / 50 == pytest.approx(3 / 50, abs=0.03)
    assert 0.3 < fitted.apply(-12.0) < 0.95 and fitted.apply(-20.0) < 0.05


def test_doubts_are_weighed_beside_the_critics_own_number() -> None:
    """Right in 7 of 10 without a doubt and in 2 of 10 with one, whatever the critic says."""
    rng = random.Random(0)
    logits = [rng.gauss(0, 1) for _ in range(800)]
    doubts = [(float(i % 2), 0.0) for i in range(800)]
    labels = [float(rng.random() < (0.2 if d else 0.7)) for d, _ in doubts]
    fitted = fit_calibration(logits, labels, doubts=doubts)
    assert fitted.apply(0.0, (0.0, 0.0)) == pytest.approx(0.7, abs=0.05)
    assert fitted.apply(0.0, (1.0, 0.0)) == pytest.approx(0.2, abs=0.05)
    assert fitted.doubts[0] < -1.5 and fitted.doubts[1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("doubts", [[], [()] * 6, [(0.5, 0.5)] * 6])
def test_doubts_that_say_nothing_change_nothing(doubts: list[tuple[float, ...]]) -> None:
    logits, labels = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], [0, 0, 1, 0, 1, 1]
    assert fit_calibration(logits, labels, doubts=doubts) == fit_calibration(logits, labels)
    assert Calibration(1.0, 0.5).apply(1.0, (1.0,)) == Calibration(1.0, 0.5).apply(1.0)


def test_one_doubted_text_of_many_decides_little() -> None:
    """As weights are drawn towards none by as much as one label."""
    doubts = [(1.0,)] + [(0.0,)] * 39
    fitted = fit_calibration([0.0] * 40, [0, *[1, 0] * 19, 1], doubts=doubts)
    assert -1.0 < fitted.doubts[0] < 0.0


@pytest.mark.parametrize(("good", "bad", "spread"), [(-3, -8, 4), (-55, -70, 13), (5, -25, 15)])
def test_calibration_finds_log_odds_wherever_they_lie(good: int, bad: int, spread: int) -> None:
    rng = random.Random(good)
    labels = [i % 2 for i in range(400)]
    logits = [rng.gauss(good if y else bad, spread) for y in labels]
    fitted = fit_calibration(logits, labels)
    scores = [fitted.apply(x) for x in logits]
    # The mean of the scores is that of the labels only at the maximum of the likelihood.
    assert sum(scores) / len(scores) == pytest.approx(0.5, abs=0.01)
    constant = brier([0.5] * len(labels), labels)
    found = brier(scores, labels)
    assert constant is not None and found is not None and found < constant - 0.02


def test_the_identity_has_no_overflow() -> None:
    assert Calibration().apply(-800.0) == pytest.approx(0.0)
    assert math.isfinite(Calibration().apply(800.0))


def test_a_completion_is_cut_at_boundaries_and_keeps_every_token() -> None:
    options = cut_into_options(
        (1, 2),
        (3, 9, 4, 9, 5, 0),
        (-1.0,) * 6,
        "end",
        lambda part: part[-1] == 9,
        lambda before, ids: f"{list(before)} {list(ids)}",
    )
    assert [o.text for o in options] == [
        "[1, 2] [3, 9]",
        "[1, 2, 3, 9] [4, 9]",
        "[1, 2, 3, 9, 4, 9] [5, 0]",
    ]
    assert [o.tokens for o in options] == [(3, 9), (4, 9), (5, 0)]
    assert [o.stop for o in options] == ["boundary", "boundary", "end"]
    assert [o.logprob for o in options] == [-2.0, -2.0, -2.0]


@pytest.mark.parametrize(
    ("verdicts", "is_sound", "num_sound"),
    [
        ([True, True], True, 2),
        ([True, False], False, 1),
        ([False, True], False, 0),
        ([True, None], None, 1),
        ([None, None], None, 0),
    ],
)
def test_a_rollout_is_sound_up_to_the_first_step_that_is_not(
    verdicts: list[bool | None], is_sound: bool | None, num_sound: int
) -> None:
    def check(state: State) -> Finding:
        return Finding(verdicts[state.depth - 1])

    found = checked_rollout(START, [STEP, LAST], check, lambda steps: "b")
    assert (found.is_sound, found.num_sound, found.answer) == (is_sound, num_sound, "b")
    assert found.state.tokens == (1, 2, 3, 4, 5, 0)


def test_a_rollout_keeps_all_that_its_state_has() -> None:
    image = replace(START, problem="what is this?")
    found = checked_rollout(image, [STEP, LAST], lambda s: Finding(None), lambda steps: "b")
    assert found.state == replace(image, options=(STEP, LAST))


def test_an_unsound_beginning_makes_the_whole_text_unsound() -> None:
    def check(state: State) -> Finding:
        return Finding(state.depth > 1)

    begun = START.extended(STEP)
    for new in ([LAST], []):
        found = checked_rollout(begun, new, check, lambda steps: "b")
        assert (found.is_sound, found.num_sound) == (False, 0)


def test_an_unsound_text_scores_zero_and_a_missing_score_stays_missing() -> None:
    bad = checked_rollout(START, [STEP, LAST], lambda s: Finding(False), lambda steps: "b")
    assert scored(bad, Score("outcome", "v", 0.9)).outcome.value == 0.0
    assert scored(bad, Score("outcome", "v", None, "nan")).outcome.value is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 48/2\n#### 72", "72"),
        (r"thus \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("The answer is $1,250.", "$1,250"),
        ("nothing", None),
        ("#### 1\n#### 2", "2"),
    ],
)
def test_final_answers_are_found(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_answers_are_compared_as_numbers_where_they_are_numbers() -> None:
    assert same_answer("1,250", "$1250.00") is True
    assert same_answer("3/4", "0.75") is True
    assert same_answer("72", "73") is False
    assert same_answer(r"\frac12", "0.5") is True
    assert boxed(r"\boxed{a{b}c}") == "a{b}c"


def test_bent_log_odds_are_calibrated_whatever_their_tails() -> None:
    """Texts of a pretrained model: one in ten lies far below all that decides."""
    rng = random.Random(1)
    labels = [i % 4 == 0 for i in range(400)]
    logits = [rng.gauss(0.5, 1.5) if y else rng.gauss(-3.5, 1.5) for y in labels]
    logits = [-150 + x if i % 10 == 3 else x for i, x in enumerate(logits)]
    found: dict[bool, float] = {}
    for is_bent in (False, True):
        fitted = fit_calibration(logits, labels, is_bent)
        assert fitted.is_bent is is_bent
        found[is_bent] = brier([fitted.apply(x) for x in logits], labels) or 1.0
    assert found[True] < 0.75 * found[False] and found[True] < 0.06
    bent = Calibration(2.0, 1.0, is_bent=True)
    assert bent.apply(3.0) == pytest.approx(1 / (1 + math.exp(-2 * math.asinh(3.0) - 1)))
