"""What models may learn from a tree: values worked out by hand on one small search."""

import pytest

from search.mcts import Search
from search.settings import SearchSettings
from search.state import Option
from search.targets import policy_targets, preference_pairs, step_labels, value_targets
from search.tree import Edge, Node
from tests.fakes import root


@pytest.fixture
def search() -> Search:
    """A root worth .5 with options of Q .8 (5 visits), .2 (3), none, and one refuted."""
    search = Search(root("1"), SearchSettings(), 0)
    for i, (visits, total, reason) in enumerate(
        [(5, 4.0, ""), (3, 0.6, ""), (0, 0.0, ""), (0, 0.0, "the value changed")]
    ):
        option = Option((i,), f"{i}", -1.0, "boundary")
        edge = Edge(option, 0.25, visits, total, unsound_reason=reason)
        search.root.add(edge)
        if reason:
            search.root.prune(edge)
        if visits:
            edge.child = Node(
                search.root.state.extended(option), len(search.nodes), edge, search.root
            )
            search.nodes.append(edge.child)
    search.root.parent_edge.visits, search.root.parent_edge.value_sum = 9, 5.1
    return search


def test_the_best_option_is_preferred_to_the_worst(search: Search) -> None:
    (pair,) = preference_pairs(search, with_unsound=False)
    assert (pair.chosen.tokens, pair.rejected.tokens) == ((0,), (1,))
    assert pair.margin == pytest.approx(0.6)
    assert (pair.visits_chosen, pair.visits_rejected) == (5, 3)
    assert preference_pairs(search, min_margin=0.7, with_unsound=False) == []
    assert preference_pairs(search, min_visits=4, with_unsound=False) == []


def test_a_refuted_option_is_the_worst_there_is(search: Search) -> None:
    (pair,) = preference_pairs(search)
    assert pair.rejected.tokens == (3,)
    assert (pair.q_rejected, pair.visits_rejected) == (0.0, 0)
    assert pair.margin == pytest.approx(0.8)


def test_value_targets_are_w_over_n(search: Search) -> None:
    values = [(t.state.depth, t.value, t.visits) for t in value_targets(search)]
    assert values == [
        (0, pytest.approx(5.1 / 9), 9),
        (1, pytest.approx(0.8), 5),
        (1, pytest.approx(0.2), 3),
    ]
    assert [t.visits for t in value_targets(search, min_visits=4)] == [9, 5]


def test_steps_are_good_above_the_threshold_and_bad_when_refuted(search: Search) -> None:
    labels = [(s.state.options[-1].tokens[0], s.is_good) for s in step_labels(search)]
    assert labels == [(0, True), (1, False), (3, False)]
    strict = [(s.is_good, s.value) for s in step_labels(search, threshold=0.9, min_visits=4)]
    assert strict == [(False, 0.8), (False, 0.0)]


def test_policy_targets_are_visit_shares(search: Search) -> None:
    (target,) = policy_targets(search)
    assert target.shares == (5 / 8, 3 / 8, 0.0, 0.0)
    assert [o.tokens for o in target.options] == [(0,), (1,), (2,), (3,)]
    assert policy_targets(search, min_visits=9) == []
