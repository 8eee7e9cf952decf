"""The gate promotes beyond chance, and its intervals are those of the books."""

import pytest

from agent.evaluation.gate import judge
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


def test_the_gate_promotes_only_what_is_better_beyond_chance() -> None:
    before = {str(i): i < 50 for i in range(100)}
    better = {str(i): i < 60 for i in range(100)}
    assert judge(before, better, 0.05).is_promoted
    assert judge(before, better, 0.05).gained == 10
    slightly = {str(i): i < 52 for i in range(100)}
    assert not judge(before, slightly, 0.05).is_promoted
    assert not judge(before, before, 0.05).is_promoted
    assert not judge(better, before, 0.05).is_promoted
