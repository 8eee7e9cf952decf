"""Finished texts as leaves: a simulation goes on to the end of a text, an option at a time."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search import frontier
from search.expansion import ALL_DRAWN
from search.interfaces import Evaluation, Proposal
from search.journal import Entry, entry_of, resume
from search.mcts import Expansion, Leaf, Search
from search.score import Score
from search.selection import UNSEEN, progressive_puct
from search.settings import SearchSettings
from search.simulation_log import rebuild
from search.state import Option, State
from search.tree import Edge, new_root
from tests.fakes import DigitWorld, Refuted, root

TEXTS = SearchSettings(simulations=100, leaves="texts", stop_value=2.0, max_tokens=0)


class Long(DigitWorld):
    """One step of many options, each less likely than the one before; one of them is sound."""

    def __init__(self, sound: int, share: float = 0.5) -> None:
        super().__init__()
        self.sound, self.share = sound, share
        self.counts: list[int] = []

    def _proposal(self, state: State, count: int) -> Proposal:
        self.counts.append(count)
        options = tuple(
            Option((d,), f"{d}\n", math.log(self.share) + d * math.log(1 - self.share), "end")
            for d in range(count)
        )
        return Proposal(
            options, tuple("" if d == self.sound else "no" for d in range(count)), count
        )

    def _evaluation(self, state: State) -> Evaluation:
        found = super()._evaluation(state)
        rollouts = tuple(
            replace(r, is_sound=True, outcome=Score("outcome", "v", 1.0)) for r in found.rollouts
        )
        return replace(found, rollouts=rollouts)


def searched(world: DigitWorld, digits: str = "31", settings: SearchSettings = TEXTS) -> Search:
    search = Search(root(digits), settings, seed=7)
    frontier.run([search], world, world)
    return search


def test_the_first_text_is_the_likeliest_line_that_no_tool_refutes_each_time() -> None:
    world = Refuted()
    search = searched(world, "312", replace(TEXTS, simulations=1))
    assert search.result().chosen is not None
    assert [n.state.steps for n in search.nodes][-1] == ["3\n", "1\n", "2\n"]
    # Two lines a step: the refuted one, and the next. Nothing but the text was evaluated.
    assert search.budget.tokens == 3 * (1 + 2) + 1 and world.num_evaluations == 1
    assert [n.num_evaluations for n in search.nodes] == [0, 0, 0, 1]


def test_a_refuted_option_is_replaced_at_once() -> None:
    world = Refuted()
    search = Search(root("31"), TEXTS, 0)
    first = search.ask()
    assert isinstance(first, Expansion) and first.request.count == 1
    search.tell_options(first, world.propose([first.request])[0])
    second = search.ask()
    assert isinstance(second, Expansion) and second.node is first.node
    assert second.request.count == 2 and second.request.known == 1


def test_a_node_draws_without_a_bound_while_nothing_it_has_is_open() -> None:
    world = Long(sound=70, share=0.05)
    search = searched(world, "7", replace(TEXTS, stop_value=0.0))
    assert search.stop_reason == "solved"
    assert world.counts[:6] == [1, 2, 3, 4, 5, 6] and max(world.counts) >= 71


def test_no_search_ends_with_budget_unspent_while_anything_is_unexplored() -> None:
    for world in (DigitWorld(), Refuted()):
        search = searched(world, "312", replace(TEXTS, simulations=1000))
        assert search.stop_reason == "exhausted"
        assert all(n.is_closed for n in search.nodes)
        sound = 4 if type(world) is DigitWorld else 3
        assert search.budget.simulations == sound**3


def test_what_is_not_drawn_yet_competes_with_its_likeliest_next_option() -> None:
    node = new_root(State("p", (1,), "p"))
    node.add(Edge(Option((1,), "a", math.log(0.6), "boundary"), 0.6))
    node.num_drawn, node.drawn_mass, node.last_prior = 1, 0.6, 0.6
    wide = replace(TEXTS, widening=1.0)
    assert progressive_puct(node, wide) is node.edges[0]
    node.edges[0].dead_ends = 1.0  # below it all was refuted once
    assert progressive_puct(node, wide) is UNSEEN
    assert progressive_puct(node, replace(wide, widening=0.5)) is node.edges[0]
    node.refuted = 1.0  # those to come were refuted as often
    assert progressive_puct(node, wide) is node.edges[0]
    node.num_drawn = ALL_DRAWN
    assert progressive_puct(node, wide) is node.edges[0]
    assert progressive_puct(node, replace(wide, widening=0.0)) is node.edges[0]


def test_the_share_that_a_refuted_option_had_of_what_was_left_is_its_cost() -> None:
    world = Long(sound=-1, share=0.8)
    search = Search(root("7"), replace(TEXTS, refuted_visit=0.3), 0)
    costs = []
    for _ in range(3):
        asked = search.ask()
        assert isinstance(asked, Expansion)
        search.tell_options(asked, world.propose([asked.request])[0])
        costs.append(search.root.refuted)
    assert costs == pytest.approx([0.8, 1.6, 2.4])  # four fifths of what was left each time
    world = Long(sound=-1, share=0.1)
    search = Search(root("7"), replace(TEXTS, refuted_visit=0.3), 0)
    asked = search.ask()
    assert isinstance(asked, Expansion)
    search.tell_options(asked, world.propose([asked.request])[0])
    assert search.root.refuted == pytest.approx(0.3)
    assert search.root.parent_edge.dead_ends == pytest.approx(0.3)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    digits=st.text("0123", min_size=1, max_size=4),
    simulations=st.integers(1, 40),
    widening=st.sampled_from([0.0, 0.3, 1.0]),
    in_flight=st.integers(1, 5),
    is_refuted=st.booleans(),
    rule=st.sampled_from(["same", "gumbel"]),
)
def test_visits_and_values_add_up_and_can_be_rebuilt(
    digits: str, simulations: int, widening: float, in_flight: int, is_refuted: bool, rule: str
) -> None:
    settings = replace(
        TEXTS,
        simulations=simulations,
        widening=widening,
        in_flight=in_flight,
        root_selection=rule,
    )
    search = searched(Refuted() if is_refuted else DigitWorld(), digits, settings)
    assert search.stop_reason in ("simulations", "exhausted")
    for node in search.nodes:
        assert node.pending == 0 and not node.is_expanding
        assert node.visits == node.num_evaluations + sum(e.visits for e in node.edges)
        assert node.num_open == sum(not e.is_closed for e in node.edges)
        assert (node.num_evaluations == 1) <= node.state.is_terminal
    parents = [n.parent.ix if n.parent else None for n in search.nodes]
    visits, sums = rebuild(parents, search.log)
    assert visits == [n.visits for n in search.nodes]
    assert sums == [n.parent_edge.value_sum for n in search.nodes]


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_search_that_is_taken_up_again_is_the_one_that_was_left(in_flight: int) -> None:
    settings = replace(TEXTS, simulations=12, in_flight=in_flight)
    whole, again = (Search(root("3120"), settings, 3) for _ in range(2))
    journal: list[Entry] = []
    listener = frontier.Listener(told=lambda _, *told: journal.append(entry_of(*told)))
    frontier.run([whole], Refuted(), Refuted(), listener)
    resume(again, json.loads(json.dumps(journal)))
    assert [
        (n.state.tokens, n.visits, n.parent_edge.dead_ends, n.refuted) for n in again.nodes
    ] == [(n.state.tokens, n.visits, n.parent_edge.dead_ends, n.refuted) for n in whole.nodes]


def test_a_depth_at_its_limit_is_a_leaf() -> None:
    search = searched(DigitWorld(), "3120", replace(TEXTS, max_depth=2, simulations=5))
    assert all(n.depth <= 2 for n in search.nodes)
    assert search.budget.simulations == 5 and search.result().chosen is None


def test_a_proposer_without_options_ends_the_search() -> None:
    class Mute(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            return Proposal((), (), 0)

    search = searched(Mute())
    assert search.stop_reason == "exhausted" and len(search.nodes) == 1


def test_a_leaf_asks_for_no_rollout_of_a_state() -> None:
    asked: list[State] = []

    class Seen(DigitWorld):
        def _evaluation(self, state: State) -> Evaluation:
            asked.append(state)
            return super()._evaluation(state)

    searched(Seen(), "312", replace(TEXTS, simulations=10))
    assert asked and all(state.is_finished for state in asked)


def test_a_leaf_that_stays_unscored_is_closed_in_the_end() -> None:
    search = searched(DigitWorld(fails=True), "31", replace(TEXTS, max_failures=2))
    assert search.stop_reason == "exhausted" and search.budget.simulations == 0
    assert search.num_unscored == 2 * 16
    assert not any(isinstance(each, Leaf) for each in search._awaited.values())
