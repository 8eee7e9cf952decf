"""The search as rules: visits add up, nothing stays pending, the known best path is found."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search import frontier
from search.interfaces import Evaluation, Proposal, Rollout
from search.mcts import Candidate, Expansion, Leaf, Search
from search.score import Score
from search.settings import SearchSettings
from search.state import Option, State
from search.trajectory import trajectory
from tests.fakes import DigitWorld, root

PLAIN = SearchSettings(simulations=40, min_width=4, max_width=4, stop_value=2.0, importance=0.0)


def searched(
    digits: str, settings: SearchSettings = PLAIN, world: DigitWorld | None = None
) -> Search:
    world = world or DigitWorld()
    search = Search(root(digits), settings, seed=7)
    frontier.run([search], world, world)
    return search


def test_the_known_best_path_is_found_though_it_is_not_the_most_probable() -> None:
    search = searched("312")
    result = search.result()
    assert result.chosen is not None
    assert result.chosen.rollout.answer == "312"
    assert result.confidence == 1.0


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    digits=st.text("0123", min_size=1, max_size=4),
    simulations=st.integers(1, 40),
    width=st.integers(1, 4),
    rule=st.sampled_from(["puct", "ucb"]),
    in_flight=st.integers(1, 6),
)
def test_visits_and_values_add_up_and_pending_returns_to_zero(
    digits: str, simulations: int, width: int, rule: str, in_flight: int
) -> None:
    settings = replace(
        PLAIN, simulations=simulations, min_width=width, selection=rule, in_flight=in_flight
    )
    search = searched(digits, settings)
    assert search.budget.simulations <= simulations
    for node in search.nodes:
        assert node.pending == 0
        assert node.num_evaluations in (0, 1)
        edge = node.parent_edge
        assert edge.visits == node.num_evaluations + sum(e.visits for e in node.edges)
        below = sum(e.value_sum for e in node.edges)
        assert edge.value_sum == pytest.approx((node.value or 0.0) + below)
        assert node.num_open == sum(not e.is_closed for e in node.edges)
        assert len(node.edges) <= 4
    assert search.root.visits == search.budget.simulations


def test_an_exhausted_tree_ends_by_itself() -> None:
    search = searched("1", replace(PLAIN, simulations=1000))
    assert search.stop_reason == "exhausted"
    assert search.budget.simulations == 1 + 4
    assert search.root.is_closed


def test_a_second_tell_changes_nothing() -> None:
    world = DigitWorld()
    search = Search(root("12"), PLAIN, seed=0)
    leaf = search.ask()
    assert isinstance(leaf, Leaf)
    evaluation = world.evaluate([leaf.request])[0]
    search.tell_evaluation(leaf, evaluation)
    search.tell_evaluation(leaf, evaluation)
    assert search.root.num_evaluations == 1
    assert search.budget.simulations == 1
    expansion = search.ask()
    assert isinstance(expansion, Expansion)
    proposal = world.propose([expansion.request])[0]
    search.tell_options(expansion, proposal)
    search.tell_options(expansion, proposal)
    assert len(search.root.edges) == 4


def test_the_order_of_tells_within_a_batch_does_not_matter() -> None:
    def statistics(is_reversed: bool) -> list[tuple[int, float]]:
        world = DigitWorld()
        search = Search(root("12"), replace(PLAIN, in_flight=3), seed=0)
        for _ in range(6):
            requests = []
            while (request := search.ask()) is not None:
                requests.append(request)
            for request in reversed(requests) if is_reversed else requests:
                if isinstance(request, Expansion):
                    search.tell_options(request, world.propose([request.request])[0])
                else:
                    search.tell_evaluation(request, world.evaluate([request.request])[0])
        return [(e.visits, round(e.value_sum, 12)) for e in search.root.edges]

    assert statistics(False) == statistics(True)


def test_a_critic_that_always_fails_ends_the_search_cleanly() -> None:
    search = searched("12", world=DigitWorld(fails=True))
    assert search.is_done
    assert search.budget.simulations == 0
    assert search.num_unscored >= 1
    assert search.result().chosen is None
    assert all(node.pending == 0 for node in search.nodes)


def test_a_policy_that_proposes_nothing_ends_the_search_cleanly() -> None:
    class Mute(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            return Proposal(())

    search = searched("12", world=Mute())
    assert search.stop_reason == "exhausted"
    assert search.result().chosen is None


def test_a_token_budget_ends_the_search() -> None:
    search = searched("3123", replace(PLAIN, max_tokens=9, simulations=1000))
    assert search.stop_reason == "tokens"
    assert 9 <= search.budget.tokens <= 9 + 4 + 1


def test_results_do_not_depend_on_what_else_is_searched() -> None:
    def shape(search: Search) -> list[tuple[int, int, float]]:
        return [(n.ix, n.visits, round(n.mean, 12)) for n in search.nodes]

    alone = shape(searched("213"))
    world = DigitWorld()
    together = [Search(root(d), PLAIN, seed=7) for d in ("11", "213", "3", "2222")]
    frontier.run(together, world, world)
    assert shape(together[1]) == alone
    assert max(world.batches) > 1


class Chain(DigitWorld):
    """Its rollouts are tool-checked: sound up to the last digit, where greedy goes wrong."""

    def _evaluation(self, state: State) -> Evaluation:
        written = [t for o in state.options for t in o.tokens]
        wanted = [int(d) for d in state.problem_id]
        rest = wanted[len(written) :]
        is_right = written == wanted[: len(written)]
        if rest and not state.options:
            rest = [*rest[:-1], (rest[-1] + 1) % 4]
        new = tuple(
            Option((d,), f"{d}\n", -0.1, "end" if i == len(rest) - 1 else "boundary")
            for i, d in enumerate(rest)
        )
        full = State(state.problem_id, state.prompt_tokens, state.prompt, state.options + new)
        text = "".join(str(t) for o in full.options for t in o.tokens)
        is_sound = text == state.problem_id
        num_sound = len(new) if is_sound else max(0, len(new) - 1) if is_right else 0
        outcome = Score("outcome", "v", float(is_sound))
        rollout = Rollout(full, state.depth, num_sound, is_sound, outcome, text)
        return Evaluation(0.5, (), (rollout,), len(new))


def test_the_sound_beginning_of_a_rollout_joins_the_tree_and_options_are_drawn_where_it_ends() -> (
    None
):
    world = Chain()
    search = searched("3120", replace(PLAIN, stop_value=0.0), world)
    assert search.stop_reason == "solved"
    chosen = search.result().chosen
    assert chosen is not None and chosen.rollout.answer == "3120"
    # One expansion, at the fourth digit: the first three were right anyway.
    assert world.num_proposals == 1
    assert [len(n.edges) for n in search.nodes[:4]] == [1, 1, 1, 4]


def test_dead_ends_widen_until_c_max() -> None:
    class Stubborn(DigitWorld):
        def __init__(self) -> None:
            super().__init__()
            self.counts: list[int] = []

        def _proposal(self, state: State, count: int) -> Proposal:
            self.counts.append(count)
            options = tuple(Option((d,), f"{d}\n", -1.0 - d, "end") for d in range(count))
            return Proposal(options, tuple("unsound" if d < 6 else "" for d in range(count)), count)

    settings = replace(PLAIN, min_width=2, max_width=16)
    world = Stubborn()
    search = searched("7", settings, world)
    assert world.counts[:3] == [2, 4, 8]
    assert [e.prune_reason for e in search.root.edges[:6]] == ["unsound"] * 6
    assert all(e.visits == 0 for e in search.root.edges[:6])


def test_a_text_cut_off_by_length_is_never_a_candidate() -> None:
    class Cut(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            return Proposal((Option((1,), "1", -0.1, "length"),), (), 1)

    search = searched("11", world=Cut())
    assert search.root.edges[0].child is not None
    assert search.root.edges[0].child.state.is_terminal
    assert search.candidates == []


def test_a_trajectory_reproduces_the_tokens_and_carries_visit_shares() -> None:
    search = searched("31")
    chosen = search.result().chosen
    assert chosen is not None
    found = trajectory(search, chosen)
    assert found.tokens == (3, 1)
    assert found.prompt_tokens == (3, 1)
    first = found.steps[0]
    assert first.visit_share is not None and 0 < first.visit_share <= 1
    edge = next(e for e in search.root.edges if e.option.tokens == (3,))
    assert first.q == edge.q


def candidates(*known: tuple[str, float, float]) -> Search:
    """A search that came across texts of (answer, probability, outcome score)."""
    search = Search(root("1"), PLAIN, seed=0)
    for i, (answer, probability, score) in enumerate(known):
        option = Option((i,), answer, math.log(probability), "end")
        state = search.root.state.extended(option)
        rollout = Rollout(state, 0, 0, None, Score("outcome", "v", score), answer)
        search.candidates.append(Candidate(rollout, search.root, i))
    return search


def test_an_improbable_text_does_not_win_by_its_outcome_score_alone() -> None:
    search = candidates(("9", 0.4, 0.6), ("5", 0.001, 0.99))
    chosen = search.result().chosen
    assert chosen is not None and chosen.rollout.answer == "9"
    assert search.result().confidence == pytest.approx(0.24 / (0.24 + 0.00099))


def test_texts_too_improbable_for_a_float_are_still_told_apart() -> None:
    search = candidates(("9", 1.0, 0.9), ("5", 1.0, 0.8))
    for i, logprob in enumerate((-2000.0, -2003.0)):
        candidate = search.candidates[i]
        option = replace(candidate.rollout.state.options[0], logprob=logprob)
        state = replace(candidate.rollout.state, options=(option,))
        search.candidates[i] = replace(candidate, rollout=replace(candidate.rollout, state=state))
    result = search.result()
    assert result.chosen is not None and result.chosen.rollout.answer == "9"
    assert result.confidence == pytest.approx(0.9 / (0.9 + 0.8 * math.exp(-3)))


def test_the_vote_adds_up_the_weight_behind_an_answer() -> None:
    search = candidates(("9", 0.3, 0.9), ("5", 0.2, 0.8), ("5", 0.2, 0.7))
    result = search.result()
    assert result.chosen is not None and result.chosen.rollout.answer == "5"
    assert result.chosen.rollout.outcome.value == 0.8
    assert result.runner_up is not None and result.runner_up.rollout.answer == "9"
    assert result.confidence == pytest.approx(0.30 / 0.57)
    search.settings = replace(search.settings, final="best")
    best = search.result().chosen
    assert best is not None and best.rollout.answer == "9"


def test_golden_tree() -> None:
    """The whole of one search, number by number; a change here changes results."""
    search = searched("31", replace(PLAIN, simulations=12))
    found = [
        [n.ix, n.parent.ix if n.parent else None, n.visits, round(n.mean, 6)] for n in search.nodes
    ]
    path = Path(__file__).parent.parent / "golden/digits_31.json"
    assert found == json.loads(path.read_text())


def test_searches_stop_when_they_are_told_to() -> None:
    world = DigitWorld()
    search = Search(root("3123"), PLAIN, seed=0)
    passes = iter(range(100))
    frontier.run([search], world, world, should_stop=lambda: next(passes) >= 3)
    assert not search.is_done and search.budget.simulations <= 3
