"""How many options a node may have: importance-weighted width (AlphaLLM, section 4.2)."""

import math

from search.settings import SearchSettings
from search.tree import Node


def importance(node: Node) -> float:
    """I(s) = max |v(child) - v(s)| over the evaluated children; 0 while there are none."""
    if node.value is None:
        return 0.0
    values = [e.child.value for e in node.edges if e.child and e.child.value is not None]
    return max((abs(v - node.value) for v in values), default=0.0)


def width(node: Node, settings: SearchSettings) -> int:
    """n(s) = max(c_min, min(floor(alpha I(s)) + 1, c_max)); c_max depends on the depth.

    A node that came into the tree along a verified rollout has one option and needs no more until
    its importance asks for them or that option proves a dead end.
    """
    smallest = settings.min_width if node.num_drawn or not node.edges else 1
    grown = math.floor(settings.importance * importance(node)) + 1
    return max(smallest, min(grown, max_width(node, settings)))


def max_width(node: Node, settings: SearchSettings) -> int:
    return settings.root_max_width if node.parent is None else settings.max_width


def num_wanted(node: Node, settings: SearchSettings) -> int:
    """Options to have drawn in all before selection may go on; `node.num_drawn` when enough.

    Dead ends widen: when no option is open, twice as many are drawn, up to c_max.
    """
    limit = max_width(node, settings)
    if node.num_drawn >= limit:
        return node.num_drawn
    wanted = width(node, settings)
    if any(edge.is_open for edge in node.edges):
        is_tried = all(e.visits or e.pending for e in node.edges if e.is_open)
        known = max(node.num_drawn, len(node.edges))
        return min(limit, wanted) if is_tried and wanted > known else node.num_drawn
    return min(limit, max(wanted, 2 * node.num_drawn, settings.min_width))
