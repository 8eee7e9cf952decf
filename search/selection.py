"""Which edge a simulation takes: rules as pure functions of a node."""

import math
from collections.abc import Callable

from search.settings import SearchSettings
from search.tree import Edge, Node

Rule = Callable[[Node, SearchSettings], Edge | None]


def _selectable(node: Node) -> list[Edge]:
    """Open edges, less those whose first visit is still under way."""
    return [e for e in node.edges if e.is_open and not (e.child is None and e.pending)
            and not (e.child is not None and e.visits == 0 and e.pending)]  # fmt: skip


def ucb(node: Node, settings: SearchSettings) -> Edge | None:
    """UCB1 as in AlphaLLM: w + C sqrt(2 ln N / n); unvisited edges first, most probable first."""
    edges = _selectable(node)
    total = max(1, node.visits + node.pending)

    def score(edge: Edge) -> tuple[float, float]:
        count = edge.visits + edge.pending
        if edge.visits == 0:
            return (math.inf, edge.prior)
        spread = math.sqrt(2 * math.log(total) / count)
        return (edge.value_sum / count + settings.exploration * spread, edge.prior)

    return max(edges, key=score, default=None)


def puct(node: Node, settings: SearchSettings) -> Edge | None:
    """PUCT (Silver et al. 2017) with priors normalised over the siblings that may be taken.

    A simulation under way counts as a visit of value 0, so the next one looks elsewhere.
    """
    edges = _selectable(node)
    mass = sum(e.prior for e in node.edges if not e.prune_reason) or 1.0
    first_play = max(0.0, node.mean - settings.first_play_reduction)
    root = math.sqrt(max(1, node.visits + node.pending))

    def score(edge: Edge) -> tuple[float, float]:
        count = edge.visits + edge.pending
        mean = edge.value_sum / count if edge.visits else first_play
        bonus = settings.exploration * edge.prior / mass * root / (1 + count)
        return (mean + bonus, edge.prior)

    return max(edges, key=score, default=None)


RULES: dict[str, Rule] = {"puct": puct, "ucb": ucb}
