"""The search as rules: visits add up, nothing stays pending, the known best path is found."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search import frontier
from search.candidates import Candidate
from search.errors import SearchSettingsError, StoreError
from search.interfaces import Evaluation, Proposal, Rollout
from search.journal import Entry, entry_of, resume
from search.mcts import Expansion, Leaf, Search
from search.randomness import gamma
from search.score import Score
from search.settings import MergeRule, RootRule, SearchSettings
from search.simulation_log import rebuild
from search.state import Option, State
from search.trajectory import trajectory
from tests.fakes import DigitWorld, Refuted, root

PLAIN = SearchSettings(
    leaves="states", simulations=40, min_width=4, max_width=4, stop_value=2.0, importance=0.0
)


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


class Trap(DigitWorld):
    """Its greedy text begins soundly with a digit after which nothing sound can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn_in_the_trap: list[int] = []

    def _proposal(self, state: State, count: int) -> Proposal:
        if not state.options:
            return super()._proposal(state, count)
        if state.options[0].tokens == (int(state.problem_id[0]),):
            last = int(state.problem_id[1])
            return Proposal((Option((last,), f"{last}\n", -0.1, "end"),), ("",), 1)
        self.drawn_in_the_trap.append(count)
        options = tuple(Option((9, k), f"{k}\n", -1.0 - k, "end") for k in range(count))
        return Proposal(options, ("refuted",) * count, count)

    def _evaluation(self, state: State) -> Evaluation:
        if state.options:
            return super()._evaluation(state)
        wrong = (int(state.problem_id[0]) + 1) % 4
        text = (
            Option((wrong,), f"{wrong}\n", math.log(0.4), "boundary"),
            Option((9, 0), "0\n", -0.1, "end"),
        )
        full = replace(state, options=text)
        outcome = Score("outcome", "v", 0.0)
        return Evaluation(0.4, (), (Rollout(full, 0, 1, False, outcome, "x"),), 2)


@pytest.mark.parametrize(("patience", "drawn"), [(1, [4]), (2, [4, 8]), (99, [4, 8, 16, 32])])
def test_a_tree_leaves_a_dead_end_as_soon_as_its_patience_says(
    patience: int, drawn: list[int]
) -> None:
    settings = replace(
        PLAIN, min_width=4, max_width=32, dead_end_patience=patience, stop_unchecked_value=1.0
    )
    world = Trap()
    search = searched("31", settings, world)
    assert world.drawn_in_the_trap == drawn
    chosen = search.result().chosen
    assert chosen is not None and chosen.rollout.answer == "31"
    assert search.root.parent_edge.dead_ends == len(drawn)
    assert search.root.visits == search.budget.simulations


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
        search.candidates.append(Candidate(rollout, search.root))
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


def test_equal_answers_are_one_however_they_are_spelled() -> None:
    def same(left: str, right: str) -> bool:
        return {left, right} <= {"1/2", "0.5"}

    search = candidates(("3", 0.3, 0.9), ("1/2", 0.2, 0.8), ("0.5", 0.2, 0.7))
    assert search.result().confidence == pytest.approx(0.27 / 0.57)
    search.same = same
    result = search.result()
    assert result.chosen is not None and result.chosen.rollout.answer == "1/2"
    assert result.runner_up is not None and result.runner_up.rollout.answer == "3"
    assert result.confidence == pytest.approx(0.30 / 0.57)


def test_a_text_without_an_answer_never_wins_and_has_no_confidence() -> None:
    search = candidates(("5", 0.1, 0.2), ("", 0.4, 0.9), ("", 0.4, 0.9))
    for i in (1, 2):
        candidate = search.candidates[i]
        search.candidates[i] = replace(candidate, rollout=replace(candidate.rollout, answer=None))
    for rule in ("vote", "best", "visits"):
        search.settings = replace(search.settings, final=rule)
        chosen = search.result().chosen
        assert chosen is not None and chosen.rollout.answer == "5"
    search.candidates = search.candidates[1:]
    assert search.result().chosen is not None and search.result().confidence is None


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


# --- settings beyond the plain ones ---


class Words(DigitWorld):
    """Each digit in two spellings, `3` and ` 3 `: duplicates that only merging sees through."""

    def _proposal(self, state: State, count: int) -> Proposal:
        plain = super()._proposal(state, 4).options
        doubled = [
            replace(o, tokens=(*o.tokens, k), text=" " * k + o.text, logprob=o.logprob - 0.7)
            for o in plain
            for k in (0, 1)
        ]
        return Proposal(tuple(doubled[:count]), (), count)

    def _evaluation(self, state: State) -> Evaluation:
        spelled = tuple(replace(o, tokens=o.tokens[:1]) for o in state.options)
        found = super()._evaluation(replace(state, options=spelled))
        rollouts = tuple(replace(r, state=state) for r in found.rollouts)
        return replace(found, rollouts=rollouts)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    digits=st.text("0123", min_size=1, max_size=3),
    simulations=st.integers(1, 50),
    low=st.integers(1, 4),
    high=st.lists(st.integers(4, 8), min_size=1, max_size=3),
    merge=st.sampled_from(["tokens", "text", "normalised", "edit"]),
    root_rule=st.sampled_from(["same", "gumbel"]),
    noise=st.sampled_from([0.0, 0.4]),
    in_flight=st.integers(1, 4),
    seed=st.integers(0, 3),
)
def test_merging_conserves_visits_and_priors_and_width_stays_within_its_bounds(
    digits: str,
    simulations: int,
    low: int,
    high: list[int],
    merge: MergeRule,
    root_rule: RootRule,
    noise: float,
    in_flight: int,
    seed: int,
) -> None:
    settings = replace(
        PLAIN,
        simulations=simulations,
        min_width=low,
        max_width=tuple(high),
        merge=merge,
        merge_distance=1,
        root_selection=root_rule,
        importance=6.0,
        in_flight=in_flight,
        noise_fraction=0.0 if root_rule == "gumbel" else noise,
    )
    world = Words()
    search = Search(root(digits), settings, seed)
    frontier.run([search], world, world)
    assert search.root.visits == search.budget.simulations == len(search.log)
    for node in search.nodes:
        limit = high[min(node.depth, len(high) - 1)]
        drawn = [o for e in node.edges for o in (e.option, *e.alternatives)]
        assert len(drawn) <= limit
        assert node.pending == 0 and node.num_open == sum(not e.is_closed for e in node.edges)
        assert node.visits == node.num_evaluations + sum(e.visits for e in node.edges)
        assert node.prior_mass == pytest.approx(sum(math.exp(o.logprob) for o in drawn))
        assert sum(e.prior for e in node.edges) == pytest.approx(node.prior_mass)
        if merge != "tokens":
            assert len({e.option.text.strip() for e in node.edges}) == len(node.edges)
    parents = [n.parent.ix if n.parent else None for n in search.nodes]
    visits, sums = rebuild(parents, search.log)
    assert visits == [n.visits for n in search.nodes]
    assert sums == [n.parent_edge.value_sum for n in search.nodes]  # bit for bit


def told_searches(
    settings: SearchSettings, world: DigitWorld, batch_target: int = 0
) -> tuple[list[Search], list[list[Entry]]]:
    """Several searches together, and what each was told."""
    searches = [Search(root(d), settings, 3) for d in ("312", "20", "1", "3213")]
    journals: list[list[Entry]] = [[] for _ in searches]
    listener = frontier.Listener(
        told=lambda s, asked, answer: journals[searches.index(s)].append(entry_of(asked, answer))
    )
    open_ones = frontier.Frontier(world, world, listener, batch_target=batch_target)
    for each in searches:
        open_ones.add(each)
    while not open_ones.is_idle:
        open_ones.step()
    return searches, journals


def statistics(search: Search) -> list[tuple[object, ...]]:
    return [
        (n.ix, n.parent_edge.option.tokens, n.visits, n.parent_edge.value_sum, n.value, n.num_drawn)
        for n in search.nodes
    ]


def test_what_a_resumed_search_was_told_keeps_the_words_of_its_problem() -> None:
    told = replace(root("31"), problem="words")
    whole, again = Search(told, PLAIN, 3), Search(told, PLAIN, 3)
    journal: list[Entry] = []
    listener = frontier.Listener(told=lambda _, *told: journal.append(entry_of(*told)))
    frontier.run([whole], DigitWorld(), DigitWorld(), listener)
    resume(again, json.loads(json.dumps(journal)))
    states = [r.state for n in again.nodes for r in n.rollouts]
    assert states == [r.state for n in whole.nodes for r in n.rollouts]
    assert {s.problem for s in states} == {"words"}


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_tree_depends_on_the_batch_target(in_flight: int) -> None:
    settings = replace(PLAIN, in_flight=in_flight)
    world = DigitWorld()
    whole = [statistics(s) for s in told_searches(settings, DigitWorld())[0]]
    small = [statistics(s) for s in told_searches(settings, world, batch_target=1)[0]]
    assert small == whole
    assert set(world.batches) == {1}


@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("world", [DigitWorld, Words, lambda: Chain()])
def test_a_search_resumed_from_its_journal_goes_on_like_one_never_left(
    in_flight: int, world: Callable[[], DigitWorld]
) -> None:
    settings = replace(PLAIN, in_flight=in_flight)
    wholes, journals = told_searches(settings, world())
    for whole, journal in zip(wholes, journals, strict=True):
        stored = json.loads(json.dumps(journal))
        for end in (0, 1, len(stored) // 2, len(stored)):
            again = Search(whole.root.state, settings, 3)
            try:
                resume(again, stored[:end])
            except StoreError:
                assert in_flight > 1  # cut within a pass, which is never stored
                continue
            quiet = world()
            frontier.run([again], quiet, quiet)
            assert statistics(again) == statistics(whole)
            assert [c.rollout for c in again.candidates] == [c.rollout for c in whole.candidates]
            assert again.result().confidence == whole.result().confidence
            assert (again.budget, again.stop_reason) == (whole.budget, whole.stop_reason)
            assert quiet.num_evaluations + quiet.num_proposals == len(stored) - end


def test_the_journal_of_another_search_is_refused() -> None:
    _, journals = told_searches(PLAIN, DigitWorld())
    with pytest.raises(StoreError, match="journal"):
        resume(Search(root("312"), replace(PLAIN, simulations=2), 3), journals[0])
    cut = told_searches(replace(PLAIN, in_flight=3), DigitWorld())[1][0]
    with pytest.raises(StoreError, match="unanswered"):
        resume(Search(root("312"), replace(PLAIN, in_flight=3), 3), cut[:3])


def test_a_critic_that_returns_no_number_counts_as_unscored() -> None:
    for wrong in (math.nan, math.inf, -0.1, 1.1):

        class Broken(DigitWorld):
            def _evaluation(self, state: State, wrong: float = wrong) -> Evaluation:
                return Evaluation(wrong) if state.options else super()._evaluation(state)

        search = searched("12", world=Broken())
        assert search.stop_reason == "exhausted"
        assert search.root.visits == 1 and search.num_unscored == 8
        assert search.root.mean == 0.5


def test_calls_and_seconds_end_a_search_like_simulations_do() -> None:
    search = searched("3123", replace(PLAIN, max_calls=7))
    assert search.stop_reason == "calls" and 7 <= search.budget.calls <= 8
    ticks = iter(range(1000))
    search = Search(root("3123"), replace(PLAIN, max_seconds=5.0), 0)
    world = DigitWorld()
    frontier.run([search], world, world, clock=lambda: float(next(ticks)))
    assert search.stop_reason == "seconds" and search.budget.seconds == 5.0
    with pytest.raises(SearchSettingsError, match="max_seconds"):
        frontier.run([Search(root("1"), replace(PLAIN, max_seconds=1.0), 0)], world, world)


def test_a_search_ends_when_its_answer_stayed_the_same_or_passed_the_gate() -> None:
    patient = searched("31", replace(PLAIN, patience=2, stop_confidence=0.5))
    assert patient.stop_reason == "converged"
    plain = searched("31")
    assert patient.budget.simulations < plain.budget.simulations
    assert patient.result().chosen is not None and plain.result().chosen is not None
    gated = searched("31", replace(PLAIN, stop_unchecked_value=1.0))
    chosen = gated.result().chosen
    assert gated.stop_reason == "solved" and chosen is not None and chosen.rollout.answer == "31"


def test_what_the_tool_refutes_is_pruned_discounted_or_kept_as_the_settings_say() -> None:
    visits = {}
    for rule in ("prune", "discount", "keep"):
        search = searched("312", replace(PLAIN, unsound=rule, simulations=30), Refuted())
        edge = search.root.edges[0]
        assert edge.unsound_reason == "wrong digit"
        assert edge.prior == pytest.approx(0.04 if rule == "discount" else 0.4)
        visits[rule] = edge.visits
    assert visits["prune"] == 0 < visits["discount"] < visits["keep"]


def test_noise_at_the_root_changes_the_root_alone_and_repeats_by_seed() -> None:
    noisy = replace(PLAIN, noise_fraction=0.5, simulations=12)
    trees = []
    for seed in (1, 1, 2):
        search = Search(root("312"), noisy, seed)
        world = DigitWorld()
        frontier.run([search], world, world)
        trees.append(statistics(search))
        assert all(e.noise > 0 for e in search.root.edges)
        assert all(e.noise == 0 for n in search.nodes[1:] for e in n.edges)
    assert trees[0] == trees[1] != trees[2]


def test_dirichlet_draws_have_the_mean_and_variance_of_their_distribution() -> None:
    alpha, k, num = 0.3, 4, 4000
    draws = []
    for i in range(num):
        gammas = [gamma(alpha, i, j) for j in range(k)]
        draws.append(gammas[0] / sum(gammas))
    mean = sum(draws) / num
    variance = sum((d - mean) ** 2 for d in draws) / num
    wanted = (1 / k) * (1 - 1 / k) / (k * alpha + 1)
    assert mean == pytest.approx(1 / k, abs=5 * math.sqrt(wanted / num))
    assert variance == pytest.approx(wanted, rel=0.1)


def test_the_gumbel_root_spreads_a_tiny_budget_by_halving() -> None:
    settings = replace(PLAIN, root_selection="gumbel", num_considered=4, simulations=9)
    visits = sorted((e.visits for e in searched("3123", settings).root.edges), reverse=True)
    assert visits == [3, 3, 1, 1]  # four once, then the better two twice more


def test_a_bandit_is_played_as_derived_by_hand() -> None:
    """Two arms of one step, values 0.9 and 0.1 known after one pull each; UCB1 with C = 0.

    The root is worth 0.5; the likelier arm goes first, then the other (unvisited first), then the
    better one has no more to give and the tree is exhausted.
    """

    class Bandit(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            return Proposal(
                tuple(Option((i,), f"{i}", math.log(p), "end") for i, p in enumerate((0.3, 0.7)))
            )

        def _evaluation(self, state: State) -> Evaluation:
            return Evaluation(0.5 if not state.options else (0.9, 0.1)[state.options[0].tokens[0]])

    search = searched("1", replace(PLAIN, selection="ucb", exploration=0.0), Bandit())
    assert [s.leaf_ix for s in search.log] == [0, 1, 2]
    assert [s.value for s in search.log] == [0.5, 0.1, 0.9]
    assert search.root.mean == pytest.approx(1.5 / 3)
    assert search.stop_reason == "exhausted"
