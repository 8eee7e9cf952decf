"""Agreement, sides, and judges who click at random."""

import numpy as np
import pytest

from agent.arena.judges import agreement, judge_fits, position_bias
from agent.arena.votes import Vote
from store.states import Choice
from tests.agent.arena.votes import drawn_votes

L, R, T, B = Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.BAD


def test_kappa_is_one_where_all_agree_whichever_side_they_saw() -> None:
    votes = [Vote("a", "b", L, "p", "x"), Vote("b", "a", R, "p", "y")]
    votes += [Vote("a", "b", R, "q", "x"), Vote("a", "b", R, "q", "y")]
    assert agreement(votes) == (1.0, 2)


def test_kappa_is_that_of_fleiss_worked_by_hand() -> None:
    """Two judges: on p both say a, on q they differ. P = (1 + 0) / 2, shares 3/4 and 1/4, so by
    chance 10/16: kappa = (1/2 - 5/8) / (3/8) = -1/3. A tie and both bad are the same."""
    votes = [Vote("a", "b", L, p, j) for p in "pq" for j in "xy"]
    votes[-1] = Vote("a", "b", R, "q", "y")
    kappa, n = agreement([*votes, Vote("a", "b", T, "alone", "x")])
    assert kappa == pytest.approx(-1 / 3) and n == 2
    assert agreement([Vote("a", "b", T, "p", "x"), Vote("b", "a", B, "p", "y")]) == (None, 1)
    assert agreement([Vote("a", "b", L, "p", "x")]) == (None, 0)


def test_the_share_of_left_counts_preferences_alone() -> None:
    votes = [Vote("a", "b", c, f"p{i}", "x") for i, c in enumerate((L, L, L, R, T, B))]
    found = position_bias(votes)
    assert (found.share_left, found.n) == (0.75, 4)
    assert found.low < 0.75 < found.high
    assert position_bias([votes[-1]]).share_left == 0.5


def test_judges_who_click_at_random_are_flagged_and_others_are_not() -> None:
    strengths = {"a": -1.5, "b": 0.0, "c": 1.5}
    votes = []
    for j in range(20):
        own = dict.fromkeys(strengths, 0.0) if j < 4 else strengths
        for i, v in enumerate(drawn_votes(own, 100, j)):
            votes.append(Vote(v.left, v.right, v.choice, f"p{i % 60}", f"j{j:02d}"))
    found = judge_fits(votes)
    assert {f.judge for f in found if f.is_flagged} == {"j00", "j01", "j02", "j03"}
    assert all(f.n == 100 for f in found)


def test_a_judge_of_few_votes_is_never_flagged() -> None:
    votes = drawn_votes({"a": -2.0, "b": 2.0}, 200, 0)
    wrong = [Vote("a", "b", L, f"w{i}", "new") for i in range(9)]
    told = {f.judge: f for f in judge_fits([*votes, *wrong])}
    assert told["new"].p is None and not told["new"].is_flagged
    told = {f.judge: f for f in judge_fits([*votes, *wrong, Vote("a", "b", L, "w", "new")])}
    assert told["new"].is_flagged


def test_ties_are_no_reason_to_be_flagged() -> None:
    noise = np.random.default_rng(0)
    votes = drawn_votes({"a": -1.0, "b": 1.0}, 300, 0, num_judges=3)
    votes = [
        Vote(v.left, v.right, T if noise.random() < 0.4 else v.choice, v.problem, v.judge)
        for v in votes
    ]
    assert not any(f.is_flagged for f in judge_fits(votes))
