"""Strengths and their intervals."""

import math
import random
from statistics import NormalDist

import numpy as np
import pytest

from agent.arena.bradley_terry import SCALE, elo, fitted, t_quantile
from agent.arena.ranks import RankSet, rank_sets
from agent.arena.votes import Vote, vote_table
from scripts.bench.arena import LAYOUTS
from search.errors import UsageError
from store.states import Choice
from tests.agent.arena.votes import drawn_votes

STRENGTHS = {"a": -1.0, "b": 0.0, "c": 0.3, "d": 0.7}
L, R, T, B = Choice.LEFT, Choice.RIGHT, Choice.TIE, Choice.BAD


def brute_force(votes: list[Vote], is_davidson: bool) -> dict[str, float]:
    """Gradient ascent on the likelihood as it is written in the papers, vote by vote."""
    names = sorted({n for v in votes for n in (v.left, v.right)})
    r, log_nu = dict.fromkeys(names, 0.0), 0.0
    for _ in range(20_000):
        slope, slope_nu = dict.fromkeys(names, 0.0), 0.0
        for v in votes:
            a, b = math.exp(r[v.left]), math.exp(r[v.right])
            tie = math.exp(log_nu) * math.sqrt(a * b) if is_davidson else 0.0
            total = a + b + tie
            won = {L: 1.0, R: 0.0}.get(v.choice, 0.5)
            expected = (a + tie / 2) / total
            slope[v.left] += won - expected
            slope[v.right] -= won - expected
            slope_nu += (v.choice in (T, B)) - tie / total
        for n in names:
            r[n] += slope[n] / len(votes)
        log_nu += slope_nu / len(votes) if is_davidson else 0.0
        if max(map(abs, (*slope.values(), slope_nu if is_davidson else 0))) < 1e-11:
            break
    mean = sum(r.values()) / len(r)
    return {n: r[n] - mean for n in names} | {"nu": math.exp(log_nu)}


def some_votes() -> list[Vote]:
    votes = drawn_votes(STRENGTHS, 60, 3)
    tied = [Vote(v.left, v.right, (T, B)[i % 2], v.problem, v.judge) for i, v in enumerate(votes)]
    return [t if i % 5 == 0 else v for i, (v, t) in enumerate(zip(votes, tied, strict=True))]


@pytest.mark.parametrize("ties", ["half", "davidson"])
def test_strengths_are_those_of_the_likelihood_climbed_slowly(ties: str) -> None:
    votes = some_votes()
    found = fitted(vote_table(votes), "davidson" if ties == "davidson" else "half")
    want = brute_force(votes, ties == "davidson")
    assert found.values == pytest.approx([want[n] for n in found.contestants], abs=1e-8)
    assert found.tie is None if ties == "half" else found.tie == pytest.approx(want["nu"], abs=1e-8)
    assert abs(found.values.sum()) < 1e-12


def test_no_bit_depends_on_the_order_of_votes_or_on_who_stood_left() -> None:
    votes = drawn_votes(STRENGTHS, 200, 1, num_judges=12)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, 200)
    votes = [
        Vote(v.left, v.right, v.choice, f"p{i % 50}", v.judge, float(w))
        for i, (v, w) in enumerate(zip(votes, weights, strict=True))
    ]
    want = fitted(vote_table(votes))
    turned = {L: R, R: L, T: T, B: B}
    for seed in range(5):
        mixed = [
            Vote(v.right, v.left, turned[v.choice], v.problem, v.judge, v.weight) for v in votes
        ]
        random.Random(seed).shuffle(mixed)
        found = fitted(vote_table(mixed))
        assert np.array_equal(found.values, want.values)
        assert np.array_equal(found.covariance, want.covariance)
        assert rank_sets(found) == rank_sets(want)


def test_a_vote_twice_over_leaves_strengths_and_halves_the_variance_of_independent_ones() -> None:
    votes = drawn_votes(STRENGTHS, 100, 2)
    twice = [*votes, *(Vote(v.left, v.right, v.choice, v.problem + "x", v.judge) for v in votes)]
    one, two = (fitted(vote_table(v), clusters="none") for v in (votes, twice))
    assert two.values == pytest.approx(one.values, abs=1e-9)
    assert two.covariance == pytest.approx(one.covariance / 2, abs=1e-9)


def test_the_same_votes_on_the_same_problem_say_nothing_new() -> None:
    """Copies within a problem leave the variance by problem as it is; vote by vote it is halved."""
    votes = drawn_votes(STRENGTHS, 100, 2)
    one, two = fitted(vote_table(votes)), fitted(vote_table(votes * 2))
    assert one.clusters == two.clusters == "problem"
    assert two.covariance == pytest.approx(one.covariance, rel=1e-9)
    assert two.vote_covariance == pytest.approx(one.covariance / 2, rel=0.01)
    assert two.design_effect == pytest.approx(2.0, rel=0.01)


def test_judges_are_taken_together_where_there_are_enough_of_them() -> None:
    few, many = (drawn_votes(STRENGTHS, 300, 4, num_judges=n) for n in (9, 10))
    assert fitted(vote_table(few)).clusters == "problem"
    found = fitted(vote_table(many))
    assert found.clusters == "problem and judge"
    assert found.num_clusters in (10, 300)  # 300: where judges differ less than by chance


def test_an_unbeaten_contestant_has_no_upper_end_and_a_finite_rating() -> None:
    votes = [Vote("a", "b", L, f"p{i}", "j") for i in range(20)]
    found = fitted(vote_table(votes))
    assert found.never_lost == (True, False) and found.never_won == (False, True)
    (low, high), (worst, best) = found.intervals()
    assert high == math.inf and worst == -math.inf
    assert best == pytest.approx(-low)
    # One tie is added to twenty wins: log(20.5 / 0.5) apart.
    assert found.values[0] - found.values[1] == pytest.approx(math.log(41.0), abs=1e-9)
    # Exact: 20 wins of 20 leave a chance of .83 at 97.5 %. The interval is no narrower.
    assert 0 < 1 / (1 + math.exp(-2 * low)) < 0.025 ** (1 / 20)


def test_a_group_that_lost_to_no_other_is_separated_and_no_interval_is_too_narrow() -> None:
    inner = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c")]
    votes = [Vote(x, y, L, f"p{i}{x}", "j") for i in range(10) for x, y in inner]
    votes += [Vote(x, y, L, f"q{i}{x}{y}", "j") for i in range(10) for x in "ab" for y in "cd"]
    found = fitted(vote_table(votes))
    assert found.is_separated and not any(found.never_lost)
    assert np.isfinite(found.values).all() and found.values[0] > found.values[2] + 2
    least = np.linalg.eigvalsh(found.covariance - found.hessian_covariance).min()
    assert least > -1e-9


def test_contestants_that_nobody_compared_are_refused_by_name() -> None:
    votes = [Vote("a", "b", L, "p", "j"), Vote("b", "a", L, "q", "j"), Vote("c", "d", T, "p", "j")]
    with pytest.raises(UsageError, match=r"2 groups with each other: a, b; c, d"):
        fitted(vote_table(votes))


def test_no_votes_and_a_contestant_against_itself_are_refused() -> None:
    with pytest.raises(UsageError, match="no votes yet"):
        vote_table([])
    with pytest.raises(UsageError, match="a is compared with itself"):
        vote_table([Vote("a", "a", L, "p", "j")])


def test_ratings_are_on_the_scale_of_elo() -> None:
    assert elo([0.0, math.log(10.0)]) == [1000.0, pytest.approx(1400.0)]
    assert pytest.approx(173.7, abs=0.1) == SCALE


@pytest.mark.parametrize(
    ("freedom", "want"), [(5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)]
)
def test_quantiles_of_student_are_those_of_tables(freedom: int, want: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(want, rel=5e-3)
    assert t_quantile(0.975, 10**9) == pytest.approx(NormalDist().inv_cdf(0.975))


def covered(layout: str, repeats: int, by_vote: bool) -> float:
    truth = fitted(vote_table(LAYOUTS[layout](np.random.default_rng(10**6), 60))).values
    held = []
    for i in range(repeats):
        ballots = vote_table(LAYOUTS[layout](np.random.default_rng((9, i)), 1))
        found = fitted(ballots, clusters="vote" if by_vote else None)
        ends = np.array(found.intervals())
        held.append(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())
    return float(np.mean(held))


def test_four_answers_of_a_problem_need_intervals_by_problem() -> None:
    """A small form of `python -m scripts.bench.arena --only coverage`."""
    layout = "150 problems, four answers"
    assert covered(layout, 60, by_vote=False) > 0.91
    assert covered(layout, 60, by_vote=True) < 0.90


def test_ranks_hold_the_order_that_is_sure_and_no_more() -> None:
    sure = fitted(vote_table(drawn_votes({"a": -3.0, "b": 0.0, "c": 3.0}, 600, 0)))
    assert rank_sets(sure) == [RankSet(3, 3), RankSet(2, 2), RankSet(1, 1)]
    alike = fitted(vote_table(drawn_votes({"a": 0.0, "b": 0.0, "c": 3.0}, 300, 0)))
    assert rank_sets(alike) == [RankSet(2, 3), RankSet(2, 3), RankSet(1, 1)]


@pytest.mark.parametrize(("num_problems", "num_judges"), [(1, 12), (2, 12), (3, 1)])
def test_few_problems_leave_intervals_as_wide_as_those_of_independent_votes(
    num_problems: int, num_judges: int
) -> None:
    """By problem alone nothing would vary: intervals would have no width at all."""
    votes = [
        Vote(v.left, v.right, v.choice, f"p{i % num_problems}", f"j{i % num_judges}")
        for i, v in enumerate(drawn_votes(STRENGTHS, 60, 5))
    ]
    found = fitted(vote_table(votes))
    alone = fitted(vote_table(votes), clusters="none")
    assert found.clusters == "vote"
    ours, least = (np.diff(np.array(f.intervals())) for f in (found, alone))
    assert ours == pytest.approx(least, rel=0.25)


def test_nothing_depends_on_the_scale_of_weights() -> None:
    votes = drawn_votes({"a": 2.0, "b": 0.0}, 12, 1)
    for told in (votes, [v for v in votes if v.choice is votes[0].choice]):
        one, many = (
            fitted(vote_table([Vote(v.left, v.right, v.choice, v.problem, "j", w) for v in told]))
            for w in (1.0, 100.0)
        )
        assert many.values == pytest.approx(one.values, abs=1e-9)
        assert many.covariance == pytest.approx(one.covariance, rel=1e-9)
        assert many.design_effect == pytest.approx(one.design_effect)


def test_what_is_separated_is_not_told_as_dependent() -> None:
    votes = [Vote("a", "b", L, f"p{i}", "j") for i in range(20)]
    assert fitted(vote_table(votes)).design_effect == pytest.approx(1.0)
