"""How many options a node may have: importance-weighted width (AlphaLLM, section 4.2)."""

import math

from search.settings import SearchSettings, at_depth
from search.tree import Node

ALL_DRAWN = 10**9
"""`num_drawn` of a node whose proposer has no more options."""


def note_value(node: Node, value: float) -> None:
    """Take a child's evaluation into the node's importance I(s)."""
    if node.value is not None:
        node.importance = max(node.importance, abs(value - node.value))


def max_width(node: Node, settings: SearchSettings) -> int:
    """c_max at the node's depth."""
    return at_depth(settings.max_width, node.depth)


def min_width(node: Node, settings: SearchSettings) -> int:
    """c_min at the node's depth; sequential halving draws all options that it considers at once."""
    smallest = at_depth(settings.min_width, node.depth)
    if node.parent is None and settings.root_selection == "gumbel":
        return max(smallest, min(settings.num_considered, max_width(node, settings)))
    return smallest


def width(node: Node, settings: SearchSettings) -> int:
    """n(s) = max(c_min(t), min(floor(alpha I(s)) + 1, c_max(t))).

    A node that came into the tree along a verified rollout has one option and needs no more until
    its importance asks for them or that option proves a dead end.
    """
    is_bare = not node.num_drawn and node.edges and settings.root_selection != "gumbel"
    smallest = 1 if is_bare else min_width(node, settings)
    grown = math.floor(settings.importance * node.importance) + 1
    return max(smallest, min(grown, max_width(node, settings)))


def widened(node: Node, settings: SearchSettings) -> int:
    """Options after one more expansion: twice as many, from c_min up to c_max."""
    return min(max_width(node, settings), max(2 * node.num_drawn, min_width(node, settings)))


def one_more(node: Node) -> int:
    """Options after the next expansion of a node that widens as it needs to: one more, and of many
    a quarter more."""
    return node.num_drawn + max(1, node.num_drawn // 4)


def num_wanted(node: Node, settings: SearchSettings) -> int:
    """Options to have drawn in all before selection may go on; `node.num_drawn` when enough.

    Dead ends widen: when no option is open, twice as many are drawn, up to c_max; where texts are
    the leaves, one more, without a bound.
    """
    drawn = node.num_drawn
    if settings.leaves == "texts":
        is_halved = node.parent is None and settings.root_selection == "gumbel"
        if drawn < settings.num_considered and is_halved:
            return settings.num_considered
        return drawn if drawn >= ALL_DRAWN or node.num_open else one_more(node)
    if drawn and node.num_open and settings.importance * node.importance < drawn:
        return (
            drawn  # c_min was drawn at first, and the importance asks for no more: the usual case
        )
    limit = max_width(node, settings)
    if drawn >= limit:
        return drawn
    wanted = width(node, settings)
    if not node.num_open:
        return max(wanted, widened(node, settings))
    if wanted <= max(drawn, len(node.edges)):
        return drawn
    is_tried = all(e.visits or e.pending for e in node.edges if not e.is_closed)
    return min(limit, wanted) if is_tried else drawn
