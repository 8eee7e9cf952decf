"""Rules that trust an answer only as often as labelled problems show them to be right."""

import math
import random

import numpy as np
import pytest

from critics.trust import (
    THRESHOLDS,
    Trust,
    at_least,
    cross_fitted,
    fitted,
    least_trusted,
    precision_bound,
    tried,
)


def drawn(num: int, seed: int, slope: float = 3.0, middle: float = 0.0) -> tuple[list, list]:
    """Evidence whose first number says how likely an answer is right, and two that say nothing."""
    rng = random.Random(seed)
    evidence, labels = [], []
    for _ in range(num):
        x = rng.gauss(0, 1)
        evidence.append([x, rng.gauss(5, 2), 1.0])
        labels.append(rng.random() < 1 / (1 + math.exp(-(slope * x + middle))))
    return evidence, labels


def test_a_rule_keeps_its_precision_on_problems_that_it_did_not_see() -> None:
    kept = right = rules = 0
    for seed in range(40):
        evidence, labels = drawn(500, seed)
        found = tried(evidence, labels, 0.9, 0.9)
        if found.trust is None:
            continue
        rules += 1
        fresh, truth = drawn(2_000, 1_000 + seed)
        chosen = [t for e, t in zip(fresh, truth, strict=True) if found.trust.trusts(e)]
        kept, right = kept + len(chosen), right + sum(chosen)
        assert sum(chosen) / len(chosen) > 0.85
        assert found.bound >= 0.9 and found.precision and found.precision >= found.bound
    assert rules >= 30 and right / kept > 0.92 and kept / (2_000 * rules) > 0.2


def test_a_promise_is_broken_no_more_often_than_was_stated() -> None:
    """Certainty .9: of the rules found, at most one in ten is less precise than it promised."""
    broken = rules = 0
    for seed in range(150):
        evidence, labels = drawn(200, seed, slope=1.5)
        found = tried(evidence, labels, 0.8, 0.9)
        if found.trust is not None:
            fresh, truth = drawn(4_000, 5_000 + seed, slope=1.5)
            chosen = [t for e, t in zip(fresh, truth, strict=True) if found.trust.trusts(e)]
            rules += 1
            broken += sum(chosen) / len(chosen) < 0.8
    assert rules >= 20 and broken <= 0.1 * rules


def test_without_evidence_nothing_is_trusted_and_the_nearest_rule_is_told() -> None:
    rng = random.Random(1)
    evidence = [[rng.gauss(0, 1)] for _ in range(200)]
    labels = [rng.random() < 0.5 for _ in range(200)]
    found = tried(evidence, labels, 0.9, 0.9)
    assert found.trust is None and found.bound < 0.9 and found.num == 200
    assert found.num_right == sum(labels)


@pytest.mark.parametrize(("num", "is_enough"), [(21, False), (22, True)])
def test_where_all_are_right_enough_of_them_are_needed(num: int, is_enough: bool) -> None:
    found = tried([[0.3, 0.1]] * num, [True] * num, 0.9, 0.9)
    assert (found.trust is not None) == is_enough
    if found.trust:
        assert found.trust.trusts([9.0, -4.0])


@pytest.mark.parametrize("labels", [[], [False] * 30, [True, False, True]])
def test_labels_that_say_nothing_trust_nothing(labels: list[bool]) -> None:
    found = tried([[1.0]] * len(labels), labels, 0.9, 0.9)
    assert found.trust is None and found.num == len(labels)


def test_wrong_labels_make_a_rule_more_careful_and_not_wrong() -> None:
    """One label in ten is planted wrong: an aim of .97 is out of reach then, and that is told."""
    evidence, labels = drawn(900, 3, slope=8.0)
    rng = random.Random(7)
    planted = [t != (rng.random() < 0.1) for t in labels]
    assert tried(evidence, labels, 0.97, 0.9).trust is not None
    assert tried(evidence, planted, 0.97, 0.9).trust is None
    careful = tried(evidence, planted, 0.8, 0.9)
    assert careful.trust is not None
    fresh, truth = drawn(2_000, 4, slope=8.0)
    chosen = [t for e, t in zip(fresh, truth, strict=True) if careful.trust.trusts(e)]
    assert sum(chosen) / len(chosen) > 0.9


def test_the_regression_finds_the_weights_that_made_the_labels() -> None:
    evidence, labels = drawn(5_000, 9, slope=2.0, middle=-1.0)
    trust = fitted(evidence, np.asarray(labels, float), 0.5)
    assert trust.weights[0] / trust.scales[0] == pytest.approx(2.0, rel=0.1)
    assert trust.weights[1] == pytest.approx(0.0, abs=0.1) and trust.weights[2] == 0.0
    for x in (-1.0, 0.0, 1.5):
        wanted = 1 / (1 + math.exp(-(2.0 * x - 1.0)))
        assert trust.probability([x, 5.0, 1.0]) == pytest.approx(wanted, abs=0.03)


def test_probabilities_come_from_other_rows_alone() -> None:
    evidence, labels = drawn(100, 2)
    before = cross_fitted(evidence, np.asarray(labels, float))
    evidence[0] = [50.0, 5.0, 1.0]
    after = cross_fitted(evidence, np.asarray(labels, float))
    assert before.shape == (100,) and after[0] != before[0]
    sure = Trust((0.0,), (1.0,), (1.0,), 800.0)
    assert sure.probability([0.0]) == 1.0 and Trust((0.0,), (1.0,), (1.0,), -800.0).probability(
        [0.0]
    ) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("right", "num", "wanted"), [(30, 30, 0.1 ** (1 / 30)), (1, 1, 0.1), (0, 9, 0.0)]
)
def test_the_bound_where_it_has_a_closed_form(right: int, num: int, wanted: float) -> None:
    assert precision_bound(right, num, 0.9) == pytest.approx(wanted, abs=1e-9)


def test_at_the_bound_so_many_right_ones_are_as_rare_as_was_said() -> None:
    bound = precision_bound(45, 50, 0.9)
    exact = sum(math.comb(50, k) * bound**k * (1 - bound) ** (50 - k) for k in range(45, 51))
    assert exact == pytest.approx(0.1, abs=1e-9) and 0.8 < bound < 0.9


def test_tails_and_needed_numbers() -> None:
    assert at_least(2, 3, 0.5) == pytest.approx(0.5)
    assert at_least(0, 3, 0.0) == 1.0 and at_least(3, 3, 1.0) == 1.0
    num = least_trusted(0.9, 0.9)
    each = 1 - 0.1 / len(THRESHOLDS)
    assert precision_bound(num, num, each) >= 0.9 > precision_bound(num - 1, num - 1, each)
    assert least_trusted(0.0, 0.9) == 1
