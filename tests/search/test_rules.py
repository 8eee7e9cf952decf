"""Selection, width, merge and settings, each against values derived by hand."""

import math
from dataclasses import replace

import pytest

from search import backup
from search.errors import SearchSettingsError
from search.expansion import note_value, num_wanted, width
from search.merge import (
    BY_NORMALISED_TEXT,
    BY_TEXT,
    BY_TOKENS,
    Merge,
    by_edit_distance,
    join,
)
from search.selection import considered_visits, gumbel, puct, ucb
from search.settings import SearchSettings
from search.state import Option, State
from search.tree import Edge, Node, new_root

SETTINGS = SearchSettings(leaves="states", min_width=2, max_width=8, importance=10.0)


def node_with(*edges: tuple[float, int, float]) -> Node:
    """A node whose edges have (prior, visits, value sum)."""
    node = new_root(State("p", (1,), "p"))
    node.value, node.num_evaluations = 0.5, 1
    for i, (prior, visits, total) in enumerate(edges):
        edge = Edge(Option((i,), f"{i}", 0.0, "boundary"), prior, visits, total)
        if visits:
            edge.child = Node(node.state.extended(edge.option), i + 1, edge, node)
            edge.child.value = total / visits
            note_value(node, total / visits)
        node.add(edge)
    node.num_drawn = len(node.edges)
    node.parent_edge.visits = 1 + sum(visits for _, visits, _ in edges)
    node.parent_edge.value_sum = 0.5 + sum(total for _, _, total in edges)
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
    node.prune(node.edges[1])
    assert node.prior_mass == pytest.approx(0.02)
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
    assert node.importance == pytest.approx(0.3)


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


def test_bounds_on_width_may_depend_on_the_depth() -> None:
    settings = replace(SETTINGS, min_width=(6, 2), max_width=[12, 3])
    root = node_with((1.0, 1, 1.0))
    child = root.edges[0].child
    assert child is not None
    child.num_drawn = 1
    assert (width(root, settings), width(child, settings)) == (6, 2)
    child.value, child.importance = 0.5, 0.5
    assert width(child, settings) == 3
    assert width(root, replace(settings, importance=1e6)) == 12


def option(text: str, *tokens: int, stop: str = "boundary") -> Option:
    return Option(tokens or tuple(map(ord, text)), text, -1.0, stop)  # type: ignore[arg-type]


def joined(rule: Merge, *options: Option, unsound: tuple[str, ...] = ()) -> Node:
    node = new_root(State("p", (1,), "p"))
    join(node, options, [0.25] * len(options), rule, unsound)
    return node


def test_merging_conserves_the_prior_and_remembers_the_alternative() -> None:
    node = new_root(State("p", (1,), "p"))
    twins = [option("a b", 1, 2), option("a b ", 3)]
    for _ in range(2):
        assert join(node, twins, [0.25, 0.125], BY_TEXT) == [node.edges[0]] * 2
    assert [e.prior for e in node.edges] == [0.375]
    assert node.prior_mass == 0.375
    assert [o.tokens for o in node.edges[0].alternatives] == [(3,)]
    ended = join(node, [option("a b", 4, stop="end")], [0.1], BY_TEXT)
    assert ended == [node.edges[1]]


@pytest.mark.parametrize(
    ("rule", "texts", "groups"),
    [
        (BY_TOKENS, ("x", "x ", "X"), 3),
        (BY_TEXT, ("x", "x ", "X"), 2),
        (BY_NORMALISED_TEXT, ("So x = 3", " so  X = 3.", "so x = 4"), 2),
        (by_edit_distance(1), ("x = 3", "x =3", "y = 33"), 2),
        (by_edit_distance(0), ("x = 3", "x =3"), 2),
    ],
)
def test_each_merge_rule_groups_what_it_says(
    rule: Merge, texts: tuple[str, ...], groups: int
) -> None:
    node = joined(rule, *(option(t, i) for i, t in enumerate(texts)))
    assert len(node.edges) == groups
    assert sum(e.prior for e in node.edges) == 0.25 * len(texts)
    assert sum(1 + len(e.alternatives) for e in node.edges) == len(texts)


def test_an_option_that_the_tool_refutes_is_never_merged_with_one_that_it_does_not() -> None:
    node = joined(
        by_edit_distance(1), option("7+6", 1), option("7+5", 2), unsound=("", "the value changed")
    )
    assert [e.unsound_reason for e in node.edges] == ["", "the value changed"]


def test_sequential_halving_gives_each_phase_an_equal_share() -> None:
    assert considered_visits(4, 16) == [0] * 4 + [1] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]
    assert considered_visits(1, 3) == [0, 1, 2]
    for m in (2, 3, 5, 16):
        sequence = considered_visits(m, 64)
        assert len(sequence) == 64
        assert sequence[:m] == [0] * m


def test_the_gumbel_root_enters_the_best_of_noise_plus_prior_and_halves_by_value() -> None:
    settings = replace(SETTINGS, root_selection="gumbel", num_considered=2, simulations=9)
    node = node_with((0.5, 0, 0.0), (0.3, 0, 0.0), (0.2, 0, 0.0))
    for edge, noise in zip(node.edges, (0.0, 0.0, 5.0), strict=True):
        edge.noise = noise
    taken = []
    for value in (0.2, 0.9, 0.2, 0.9):
        edge = gumbel(node, settings)
        assert edge is not None
        taken.append(node.edges.index(edge))
        edge.visits, edge.value_sum = edge.visits + 1, edge.value_sum + value
    # 1 never enters; after one visit each, 5 + ln .2 + 5.1 * .2 is above ln .5 + 5.1 * .9.
    assert taken == [2, 0, 2, 0]


@pytest.mark.parametrize(
    "bad",
    [
        {"simulations": 0},
        {"min_width": 9, "max_width": 4},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"selection": "best"},
        {"exploration": -0.1},
        {"in_flight": 0},
        {"num_rollouts": -1},
        {"max_depth": 0},
        {"final": "first"},
        {"max_seconds": -1.0},
        {"stop_value": float("nan")},
        {"noise_fraction": 1.5},
        {"importance": float("inf")},
        {"noise_fraction": 0.2, "selection": "ucb"},
        {"min_width": ()},
        {"max_width": (4, 3)},
        {"noise_fraction": 0.2, "root_selection": "gumbel"},
        {"min_width": 0},
        {"merge": "all"},
        {"leaves": "all"},
        {"order": "all"},
        {"wordings": -1},
        {"wordings": 2, "leaves": "states"},
    ],
)
def test_contradictory_settings_are_refused_by_name(bad: dict[str, object]) -> None:
    with pytest.raises(SearchSettingsError) as error:
        SearchSettings(**bad)  # type: ignore[arg-type]
    assert next(iter(bad)) in error.value.message
    assert error.value.fix
