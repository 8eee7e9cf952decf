"""State merge among siblings: equivalent options share one child and its statistics."""

from collections.abc import Callable

from search.state import Option
from search.tree import Edge

Same = Callable[[Option, Option], bool]


def same_text(left: Option, right: Option) -> bool:
    """Equal but for white space at the ends, and ending the same way."""
    return left.text.strip() == right.text.strip() and left.stop == right.stop


def merge_option(
    edges: list[Edge], option: Option, prior: float, same: Same = same_text
) -> Edge | None:
    """Join `option` to an equivalent edge, adding priors; returns a new edge when there is none."""
    for edge in edges:
        if edge.option.tokens == option.tokens:
            return None
        if any(other.tokens == option.tokens for other in edge.alternatives):
            return None
        if same(edge.option, option):
            edge.alternatives.append(option)
            edge.prior += prior
            return None
    edge = Edge(option, prior)
    edges.append(edge)
    return edge
