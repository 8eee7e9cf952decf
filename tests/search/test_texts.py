"""Finished texts as leaves: a simulation goes on to the end of a text, an option at a time."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search import frontier
from search.errors import SearchSettingsError
from search.expansion import ALL_DRAWN
from search.interfaces import Evaluation, Proposal, Rollout
from search.journal import Entry, entry_of, resume
from search.mcts import Expansion, Leaf, Search
from search.merge import BY_TEXT, StepClaim, join
from search.score import Score
from search.selection import UNSEEN, mass_puct
from search.settings import SearchSettings
from search.simulation_log import rebuild
from search.state import Option, State
from search.trajectory import first_text, trajectory
from search.tree import Edge, Node, new_root
from tests.fakes import DigitWorld, Refuted, root

TEXTS = SearchSettings(
    simulations=100, stop_value=2.0, stop_decided=False, max_tokens=0, num_rollouts=0
)


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
    search = searched(world, "312", replace(TEXTS, simulations=1, order="depth"))
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
    by_mass, deep = replace(TEXTS, order="mass"), replace(TEXTS, order="depth")
    assert mass_puct(node, by_mass) is node.edges[0]  # .6 against .4 that are left
    node.edges[0].mass = 0.3  # half of what is behind it was refuted
    assert mass_puct(node, by_mass) is UNSEEN
    assert mass_puct(node, deep) is node.edges[0]
    node.last_prior = 0.2  # no option to come is more probable
    assert mass_puct(node, by_mass) is node.edges[0]
    node.last_prior, node.num_drawn = 0.6, ALL_DRAWN
    assert mass_puct(node, by_mass) is node.edges[0]


def test_values_draw_a_simulation_away_from_where_most_is_unexplored() -> None:
    node = new_root(State("p", (1,), "p"))
    for i, (mass, value) in enumerate([(0.5, 0.0), (0.3, 1.0)]):
        node.add(Edge(Option((i,), "a", math.log(mass), "boundary"), mass))
        node.edges[i].visits, node.edges[i].value_sum = 1, value
    node.num_drawn, node.drawn_mass, node.last_prior = 2, 0.8, 0.01
    node.parent_edge.visits, node.parent_edge.value_sum = 2, 1.0
    assert mass_puct(node, TEXTS) is node.edges[1]
    assert mass_puct(node, replace(TEXTS, exploration=100.0)) is node.edges[0]


@pytest.mark.parametrize("order", ["mass", "depth"])
def test_what_is_left_to_explore_is_what_was_neither_refuted_nor_finished(order: str) -> None:
    search = searched(Refuted(), "312", replace(TEXTS, simulations=4, order=order))
    finished = sum(math.exp(c.logprob) for c in search.candidates)

    def refuted(node: Node) -> float:
        """Of the node's probability."""
        found = sum(e.prior for e in node.edges if e.prune_reason)
        return found + sum(e.prior * refuted(e.child) for e in node.edges if e.child)

    assert search.root.mass == pytest.approx(1.0 - finished - refuted(search.root))
    for node in (n for n in search.nodes if not n.is_closed):
        assert node.mass == pytest.approx(node.unseen_mass + sum(e.mass for e in node.edges))
        assert node.parent is None or node.parent_edge.mass == pytest.approx(
            node.mass * node.parent_edge.prior
        )


def test_options_that_no_proposer_gives_are_not_left_to_explore() -> None:
    search = searched(DigitWorld(), "3", replace(TEXTS, simulations=1000))
    assert search.stop_reason == "exhausted" and search.root.mass == pytest.approx(0.0)


def test_a_search_leaves_a_way_of_which_little_is_left() -> None:
    """Below the likelier step all but one text in a thousand is refuted or finished at once."""

    class Spent(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            if state.depth == 0:
                options = [(0, 0.7, "boundary"), (1, 0.3, "boundary")]
            else:
                options = [(2, 0.998, "end"), *((d, 0.0001, "end") for d in range(3, 13))]
            found = tuple(Option((d,), str(d), math.log(p), s) for d, p, s in options[:count])
            return Proposal(found, (), len(found))

    search = searched(Spent(), "31", replace(TEXTS, simulations=2))
    assert [c.rollout.state.tokens[2:] for c in search.candidates] == [(0, 2), (1, 2)]


def test_a_search_ends_when_what_is_unexplored_could_not_change_its_answer() -> None:
    class Sure(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            weights = [0.6, 0.25, 0.1, 0.05][:count]
            found = tuple(Option((d,), f"{d}", math.log(p), "end") for d, p in enumerate(weights))
            return Proposal(found, (), count)

        def _evaluation(self, state: State) -> Evaluation:
            found = super()._evaluation(state)
            rollouts = (replace(found.rollouts[0], outcome=Score("outcome", "v", 1.0)),)
            return replace(found, rollouts=rollouts)

    search = searched(Sure(), "3", replace(TEXTS, stop_decided=True))
    assert search.stop_reason == "decided" and search.budget.simulations == 1  # .6 against .4
    whole = searched(Sure(), "3", replace(TEXTS, stop_decided=False))
    assert whole.stop_reason == "exhausted" and whole.budget.simulations == 4
    answers = [s.result().chosen.rollout.answer for s in (search, whole)]  # type: ignore[union-attr]
    assert answers == ["0", "0"]


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8),
    scores=st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8),
    answers=st.lists(st.sampled_from("abc"), min_size=8, max_size=8),
)
def test_a_decided_answer_is_that_of_the_whole_search(
    weights: list[float], scores: list[float], answers: list[str]
) -> None:
    priors = sorted((w / sum(weights) for w in weights), reverse=True)

    class Vote(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            few = priors[:count]
            found = tuple(Option((d,), f"{d}", math.log(p), "end") for d, p in enumerate(few))
            return Proposal(found, (), len(found))

        def _evaluation(self, state: State) -> Evaluation:
            found = super()._evaluation(state)
            d = state.options[-1].tokens[0]
            rollout = replace(
                found.rollouts[0], outcome=Score("outcome", "v", scores[d]), answer=answers[d]
            )
            return replace(found, rollouts=(rollout,))

    early, whole = (
        searched(Vote(), "3", replace(TEXTS, stop_decided=decided)).result()
        for decided in (True, False)
    )
    assert early.chosen is not None and whole.chosen is not None
    assert early.chosen.rollout.answer == whole.chosen.rollout.answer


def test_other_wordings_are_roots_under_one_budget_and_one_vote() -> None:
    """The own wording's likeliest text is wrong; two of three wordings find the same answer."""

    class Worded(DigitWorld):
        def _proposal(self, state: State, count: int) -> Proposal:
            first = {"own": 1, "b": 2, "c": 2}[state.prompt]
            found = (Option((first,), f"{first}", math.log(0.5), "end"),)
            return Proposal(found[:count], (), 1)

        def _evaluation(self, state: State) -> Evaluation:
            score = Score("outcome", "v", 0.5)
            answer = str(state.options[-1].tokens[0])
            rollout = Rollout(state, 1, 0, None, score, answer)
            return Evaluation(0.5, (), (rollout,), 1)

    own, *others = (State("p", (i,), name) for i, name in enumerate(("own", "b", "c")))
    search = Search(own, TEXTS, 0, wordings=others)
    journal: list[Entry] = []
    listener = frontier.Listener(told=lambda _, *told: journal.append(entry_of(*told)))
    frontier.run([search], Worded(), Worded(), listener)
    assert [c.rollout.state.prompt for c in search.candidates] == ["own", "b", "c"]
    result = search.result()
    assert result.chosen is not None and result.chosen.rollout.answer == "2"
    assert result.budget.simulations == 3
    assert result.budget.tokens == 9 + 2  # the other prompts have a token each
    assert result.confidence == pytest.approx(2 / 3)
    found = trajectory(search, result.chosen)
    assert found.prompt_tokens == (1,) and found.steps[0].visit_share == 1.0
    again = Search(own, TEXTS, 0, wordings=others)
    resume(again, json.loads(json.dumps(journal)))
    assert [n.state for n in again.nodes] == [n.state for n in search.nodes]
    with pytest.raises(SearchSettingsError, match="wordings"):
        Search(own, replace(TEXTS, leaves="states"), 0, wordings=others)


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    digits=st.text("0123", min_size=1, max_size=4),
    simulations=st.integers(1, 40),
    order=st.sampled_from(["mass", "depth"]),
    in_flight=st.integers(1, 5),
    is_refuted=st.booleans(),
    rule=st.sampled_from(["same", "gumbel"]),
)
def test_visits_and_values_add_up_and_can_be_rebuilt(
    digits: str, simulations: int, order: str, in_flight: int, is_refuted: bool, rule: str
) -> None:
    settings = replace(
        TEXTS,
        simulations=simulations,
        order=order,
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
    assert [(n.state.tokens, n.visits, n.mass, n.last_prior) for n in again.nodes] == [
        (n.state.tokens, n.visits, n.mass, n.last_prior) for n in whole.nodes
    ]


def test_a_halved_root_draws_what_it_considers_and_noise_moves_the_first_choices() -> None:
    """Both rules hold for finished texts, too."""
    halved = replace(TEXTS, root_selection="gumbel", num_considered=3, simulations=4)
    search = searched(DigitWorld(), "312", halved)
    assert search.root.num_drawn == 3
    assert sorted(e.visits for e in search.root.edges) == [1, 1, 2]
    noisy = replace(TEXTS, noise_fraction=0.9, simulations=6)
    plain = searched(DigitWorld(), "312", replace(TEXTS, simulations=6))
    others = [Search(root("312"), noisy, seed) for seed in range(4)]
    for other in others:
        frontier.run([other], DigitWorld(), DigitWorld())
        assert all(e.noise > 0 for e in other.root.edges)
        assert all(e.noise == 0 for n in other.nodes[1:] for e in n.edges)
    told = [[n.state.tokens for n in s.nodes] for s in (plain, *others)]
    assert any(t != told[0] for t in told[1:])


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


def test_each_wording_begins_with_the_text_of_most_probable_tokens_where_that_is_asked_for() -> (
    None
):
    class Greedy(DigitWorld):
        def _evaluation(self, state: State) -> Evaluation:
            found = super()._evaluation(state)
            if state.options:
                return found
            digits = [Option((3,), "3\n", math.log(0.4), "boundary")]
            digits.append(Option((1,), "1", math.log(0.5), "end"))
            done = replace(state, options=tuple(digits))
            score = Score("outcome", "v", 0.7)
            return Evaluation(0.6, (), (Rollout(done, 0, 0, None, score, "31"),), 1)

    settings = replace(TEXTS, num_rollouts=1, simulations=2)
    own, other = (State("31", (i, 1), name) for i, name in enumerate(("own", "b")))
    search = Search(own, settings, 0, wordings=[other])
    frontier.run([search], Greedy(), Greedy())
    assert [c.rollout.state.prompt for c in search.candidates] == ["own", "b"]
    assert search.budget.tokens == 2 + 2  # two texts, and the other prompt
    assert [n.state.steps for n in search.nodes[2:4]] == [["3\n"], ["3\n", "1"]]
    text = search.nodes[3]
    assert text.is_closed and text.mass == 0.0 and search.root.visits == 1
    assert search.root.mass == pytest.approx(1 - 0.4 * 0.5)
    found = first_text(search)
    assert found is not None and found.answer == "31"


def test_a_refuted_step_lends_its_probability_to_the_one_that_works_out_the_same() -> None:
    def claim_of(step: str) -> StepClaim | None:
        what, _, result = step.strip().partition("=")
        return StepClaim(what, result) if result else None

    class Sums(DigitWorld):
        """The tool knows that 1+1 is 2; each line is likelier than the next."""

        lines = ("1+1=3", "2+2=4", "1+1=2", "1+1= 2", "1+1=4")

        def _proposal(self, state: State, count: int) -> Proposal:
            if state.options:
                return Proposal((Option((9,), "end", 0.0, "end"),), ("",), 1)
            found = tuple(
                Option((i,), line, math.log(p), "boundary")
                for i, (line, p) in enumerate(
                    zip(self.lines, (0.4, 0.25, 0.2, 0.1, 0.05), strict=True)
                )
            )[:count]
            wrong = tuple("" if o.text in ("2+2=4", "1+1=2", "1+1= 2") else "no" for o in found)
            return Proposal(found, wrong, len(found))

        def _evaluation(self, state: State) -> Evaluation:
            score = Score("outcome", "v", 0.5)
            return Evaluation(0.5, (), (Rollout(state, 2, 0, None, score, state.steps[0]),), 1)

    def found(merge: str) -> Search:
        settings = replace(TEXTS, merge=merge)

        def blank(step: str) -> StepClaim | None:
            return claim_of(step.replace(" ", ""))

        search = Search(root("31"), settings, 0, claim_of=blank)
        frontier.run([search], Sums(), Sums())
        return search

    claims = found("claims")
    open_ones = {e.option.text: e.prior for e in claims.root.edges if not e.prune_reason}
    assert open_ones == {"2+2=4": pytest.approx(0.25), "1+1=2": pytest.approx(0.75)}
    chosen = claims.result().chosen
    assert chosen is not None and chosen.rollout.answer == "1+1=2"
    assert claims.result().confidence == pytest.approx(0.75)
    assert claims.root.mass == pytest.approx(0.0) and claims.stop_reason == "exhausted"
    texts = found("text").result().chosen
    assert texts is not None and texts.rollout.answer == "2+2=4"


def test_what_a_merged_option_adds_is_to_explore_as_far_as_its_twin_is() -> None:
    node = new_root(State("p", (1,), "p"))
    first, again, late = (
        Option((i,), text, math.log(p), "boundary")
        for i, (text, p) in enumerate((("a\n", 0.5), ("a", 0.2), (" a", 0.1)))
    )
    (edge,) = join(node, [first], [0.5], BY_TEXT)
    edge.child = Node(node.state.extended(first), 1, edge, node)
    edge.child.explore(0.6)
    assert (edge.mass, node.mass) == (pytest.approx(0.2), pytest.approx(0.7))
    assert join(node, [again], [0.2], BY_TEXT) == [edge]
    assert (edge.mass, node.mass) == (pytest.approx(0.28), pytest.approx(0.58))
    edge.child.close()
    assert (edge.mass, node.mass) == (pytest.approx(0.0), pytest.approx(0.3))
    join(node, [late], [0.1], BY_TEXT)
    assert (edge.mass, node.mass) == (pytest.approx(0.0), pytest.approx(0.2))
