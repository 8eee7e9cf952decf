"""Which pair comes next."""

import numpy as np
import pytest

from agent.arena.pairing import DOUBT, UNIFORM, chances, drawn, met_of
from agent.arena.votes import vote_table
from tests.agent.arena.votes import drawn_votes

NAMES = ("a", "b", "c", "d")


def test_chances_are_of_pairs_and_sum_to_one_with_none_left_out() -> None:
    met = np.full((4, 4), 50.0)
    found = chances(NAMES, met, np.array([5.0, 0.0, 0.0, -5.0]))
    assert found.sum() == pytest.approx(1.0)
    upper = found[np.triu_indices(4, 1)]
    assert (upper >= UNIFORM / 6).all()
    assert not np.tril(found).any()


def test_a_contestant_that_was_seldom_seen_is_drawn_more_often() -> None:
    met = np.full((4, 4), 100.0)
    met[3, :] = met[:, 3] = 2.0
    found = chances(NAMES, met, np.zeros(4))
    assert found[:, 3].sum() > 0.7


def test_pairs_are_drawn_by_what_one_more_vote_takes_off_the_variances() -> None:
    """Against the covariance worked out anew with one vote more."""
    noise = np.random.default_rng(0)
    met = np.triu(noise.integers(0, 30, (4, 4)), 1).astype(float)
    met += met.T
    strengths = np.array([-0.5, 0.0, 0.4, 1.2])
    a, b = np.triu_indices(4, 1)
    p = 1 / (1 + np.exp(strengths[b] - strengths[a]))

    def spread(n: np.ndarray) -> float:
        contrasts = np.eye(4)[a] - np.eye(4)[b]
        hessian = contrasts.T @ np.diag(n * p * (1 - p)) @ contrasts
        return float(np.trace(np.linalg.pinv(hessian)))

    n = met[a, b] + DOUBT
    gains = np.array([spread(n) - spread(n + np.eye(6)[i]) for i in range(6)])
    want = UNIFORM / 6 + (1 - UNIFORM) * gains / gains.sum()
    assert chances(NAMES, met, strengths)[a, b] == pytest.approx(want, abs=1e-12)


def test_draws_follow_the_chances_of_open_pairs_and_sides_are_even() -> None:
    possible = np.ones((4, 4))
    possible[0, 1] = 0.0
    chance = chances(NAMES, np.zeros((4, 4)), np.zeros(4))
    noise = np.random.default_rng(0)
    draws = [drawn(NAMES, possible, chance, noise) for _ in range(4000)]
    assert {"a", "b"} not in [{d.left, d.right} for d in draws]
    assert {round(d.chance, 9) for d in draws} == {0.2}
    share = sum(d.left < d.right for d in draws) / len(draws)
    assert abs(share - 0.5) < 0.03


def test_votes_are_counted_both_ways_round_and_for_those_who_take_part() -> None:
    ballots = vote_table(drawn_votes({"a": 0.0, "c": 0.0}, 30, 0))
    met = met_of(ballots, NAMES)
    assert met[0, 2] == met[2, 0] == 30.0 and met.sum() == 60.0
