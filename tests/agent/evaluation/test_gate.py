"""The gate promotes beyond chance, and its intervals are those of the books."""

import random

import pytest

from agent.evaluation.gate import detectable, judge, least_gained, level
from agent.evaluation.intervals import mcnemar_p, paired_difference, wilson


def test_wilson_interval_of_a_known_case() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)


def test_mcnemar_is_exact() -> None:
    assert mcnemar_p(5, 0) == pytest.approx(1 / 32)
    assert mcnemar_p(3, 3) == pytest.approx(42 / 64)
    assert mcnemar_p(0, 0) == 1.0


def test_the_paired_difference_lies_in_its_interval() -> None:
    difference, low, high = paired_difference(30, 10, 100)
    assert difference == pytest.approx(0.2) and low < 0.2 < high and low > 0


def test_a_run_shares_one_level_among_its_tests() -> None:
    """LORD++: what nothing is found for costs level, what is found earns it back."""
    failing = [level(0.05, [False] * k) for k in range(200)]
    assert failing == sorted(failing, reverse=True) and sum(failing) < 0.025
    assert level(0.05, [True]) > level(0.05, []) > level(0.05, [False])
    assert level(0.05, [True, True]) > level(0.05, [True]) and level(0.05, [True] * 50) < 0.05


def test_of_a_runs_promotions_few_are_none() -> None:
    """Candidates as good as the old one, with a real gain now and then: 2,000 runs of 12 rounds."""
    rng = random.Random(0)
    false = 0.0
    for _ in range(2_000):
        promoted: list[bool] = []
        wrong = 0
        for number in range(12):
            is_real = number % 6 == 0
            p = 1e-6 if is_real else rng.random()
            promoted.append(p < level(0.05, promoted))
            wrong += promoted[-1] and not is_real
        false += wrong / max(1, sum(promoted)) / 2_000
    assert false <= 0.05


def test_the_gate_promotes_only_what_is_better_beyond_chance() -> None:
    before = {str(i): i < 50 for i in range(100)}
    better = {str(i): i < 60 for i in range(100)}
    assert judge(before, better, 0.05).is_promoted
    assert judge(before, better, 0.05).gained == 10
    slightly = {str(i): i < 52 for i in range(100)}
    assert not judge(before, slightly, 0.05).is_promoted
    assert not judge(before, before, 0.05).is_promoted
    assert not judge(better, before, 0.05).is_promoted


def test_what_a_gate_needs_and_what_it_can_detect() -> None:
    assert [least_gained(p) for p in (0.5, 0.05, 0.01)] == [2, 5, 7]
    found = [detectable(n, 0.05) for n in (20, 100, 600, 1319)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.24  # five of twenty, none lost
    assert detectable(4, 0.05) == 1.0  # four gained are never enough
    verdict = judge({str(i): False for i in range(100)}, {str(i): i < 9 for i in range(100)}, 0.05)
    assert verdict.detectable == detectable(100, 0.05, 0.0)


def test_a_detectable_gain_passes_four_times_in_five() -> None:
    """By simulation: a tenth of the problems lost beside those gained."""
    rng = random.Random(0)
    n, loss = 400, 0.05
    gain = detectable(n, 0.05, loss)
    passed = 0
    for _ in range(600):
        drawn = [rng.random() for _ in range(n)]
        lost = sum(u < loss for u in drawn)
        gained = sum(loss <= u < 2 * loss + gain for u in drawn)
        passed += gained > lost and mcnemar_p(gained, lost) < 0.05
    assert 0.7 < passed / 600 < 0.9
