"""Selection, width, merge and settings, each against values derived by hand."""

import math
from dataclasses import replace

import pytest

from search import backup
from search.errors import SearchSettingsError
from search.expansion import importance, num_wanted, width
from search.merge import merge_option
from search.selection import puct, ucb
from search.settings import SearchSettings
from search.state import Option, State
from search.tree import Edge, Node

SETTINGS = SearchSettings(min_width=2, max_width=8, root_max_width=8, importance=10.0)


def node_with(*edges: tuple[float, int, float]) -> Node:
    """A node whose edges have (prior, visits, value sum)."""
    node = Node(State("p", (1,), "p"), 0, value=0.5, num_evaluations=1)
    for i, (prior, visits, total) in enumerate(edges):
        edge = Edge(Option((i,), f"{i}", 0.0, "boundary"), prior, visits, total)
        if visits:
            edge.child = Node(node.state.extended(edge.option), i + 1, node, edge)
            edge.child.value = total / visits
        node.edges.append(edge)
    node.num_drawn = len(node.edges)
    return node


def test_ucb_is_the_papers_formula() -> None:
    node = node_with((0.5, 4, 2.0), (0.5, 1, 0.6))
    total = 6  # own evaluation + 5
    scores = [2.0 / 4 + math.sqrt(2 * math.log(total) / 4), 0.6 + math.sqrt(2 * math.log(total))]
    assert scores[1] > scores[0]
    assert ucb(node, SETTINGS) is node.edges[1]
    assert ucb(node, replace(SETTINGS, exploration=0.0)) is node.edges[1]
    node.edges[1].value_sum = 0.4
    assert ucb(node, replace(SETTINGS, exploration=0.0)) is node.edges[0]


def test_ucb_takes_unvisited_options_first_and_the_most_probable_of_them() -> None:
    node = node_with((0.1, 9, 9.0), (0.2, 0, 0.0), (0.7, 0, 0.0))
    assert ucb(node, SETTINGS) is node.edges[2]


def test_puct_normalises_priors_over_the_siblings_that_may_be_taken() -> None:
    node = node_with((0.02, 1, 0.5), (0.06, 1, 0.5))
    assert puct(node, SETTINGS) is node.edges[1]
    node.edges[1].prune_reason = "unsound"
    assert puct(node, SETTINGS) is node.edges[0]


def test_what_is_under_way_is_avoided_until_it_is_back() -> None:
    node = node_with((0.5, 1, 0.9), (0.5, 1, 0.8))
    assert puct(node, SETTINGS) is node.edges[0]
    backup.begin([node.edges[0]])
    assert puct(node, SETTINGS) is node.edges[1]
    backup.cancel([node.edges[0]])
    assert puct(node, SETTINGS) is node.edges[0]


def test_importance_is_the_largest_change_of_value() -> None:
    node = node_with((0.5, 2, 1.6), (0.5, 1, 0.4))
    assert importance(node) == pytest.approx(0.3)


@pytest.mark.parametrize(("value", "wanted"), [(0.5, 2), (0.75, 3), (0.875, 4), (1.0, 6), (0.0, 6)])
def test_width_is_floor_of_alpha_times_importance_plus_one_within_bounds(
    value: float, wanted: int
) -> None:
    node = node_with((1.0, 1, value))
    assert width(node, SETTINGS) == wanted
    assert width(node, replace(SETTINGS, importance=1000.0)) in (2, 8)


def test_width_grows_only_when_every_open_option_was_tried() -> None:
    node = node_with((0.5, 1, 1.0), (0.5, 0, 0.0))
    assert num_wanted(node, SETTINGS) == node.num_drawn
    node.edges[1].visits = 1
    assert num_wanted(node, SETTINGS) > node.num_drawn


def test_merging_conserves_the_prior_and_remembers_the_alternative() -> None:
    edges: list[Edge] = []
    first = merge_option(edges, Option((1, 2), "a b", -1.0, "boundary"), 0.25)
    assert first is not None
    assert merge_option(edges, Option((3,), "a b ", -2.0, "boundary"), 0.125) is None
    assert merge_option(edges, Option((1, 2), "a b", -1.0, "boundary"), 0.25) is None
    assert merge_option(edges, Option((3,), "a b ", -2.0, "boundary"), 0.125) is None
    assert [e.prior for e in edges] == [0.375]
    assert [o.tokens for o in edges[0].alternatives] == [(3,)]
    assert merge_option(edges, Option((4,), "a b", -1.0, "end"), 0.1) is not None


@pytest.mark.parametrize(
    "bad",
    [
        {"simulations": 0}, {"min_width": 9, "max_width": 4}, {"temperature": 0.0},
        {"temperature": -1.0}, {"selection": "best"}, {"exploration": -0.1}, {"in_flight": 0},
        {"num_rollouts": -1}, {"max_depth": 0}, {"final": "first"},
    ],
)  # fmt: skip
def test_contradictory_settings_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(SearchSettingsError) as error:
        SearchSettings(**bad)  # type: ignore[arg-type]
    assert next(iter(bad)) in error.value.message
    assert error.value.fix
