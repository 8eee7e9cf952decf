"""The tree: N and W are stored, Q is derived; what is in flight is counted apart."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from search.interfaces import Rollout
from search.score import Score
from search.state import Option, State


@dataclass(slots=True, eq=False)
class Edge:
    """An option under a node and what simulations through it found."""

    option: Option
    prior: float
    """P: probability under the proposer, merged alternatives added; siblings need not sum to 1."""
    visits: int = 0
    """N: finished simulations through this edge."""
    value_sum: float = 0.0
    """W: sum of their values."""
    pending: int = 0
    """Simulations under way through this edge: the virtual loss; 0 when none is."""
    child: "Node | None" = None
    prune_reason: str = ""
    """Why the option is never taken; empty when it may be."""
    alternatives: list[Option] = field(default_factory=list)
    """Equivalent options that were merged into this one."""

    @property
    def q(self) -> float | None:
        """Mean value W / N; None before the first visit."""
        return self.value_sum / self.visits if self.visits else None

    @property
    def is_open(self) -> bool:
        """True when a simulation may still go this way."""
        return not self.prune_reason and (self.child is None or not self.child.is_closed)


@dataclass(slots=True, eq=False)
class Node:
    """A state in the tree. N(node) = own evaluations + sum of N(edges)."""

    state: State
    ix: int
    """Order of creation; the root is 0."""
    parent: "Node | None" = None
    parent_edge: Edge | None = None
    edges: list[Edge] = field(default_factory=list)
    value: float | None = None
    """Own evaluation v(s); None before it, or when it stayed unscored."""
    scores: tuple[Score, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    num_evaluations: int = 0
    num_failures: int = 0
    num_drawn: int = 0
    """Options asked for so far; the proposer may have returned fewer."""
    is_expanding: bool = False
    is_closed: bool = False
    """Nothing is left to try below."""
    close_reason: str = ""

    @property
    def visits(self) -> int:
        return self.num_evaluations + sum(edge.visits for edge in self.edges)

    @property
    def pending(self) -> int:
        return sum(edge.pending for edge in self.edges)

    @property
    def mean(self) -> float:
        """Mean of all values at and below the node; one half before the first."""
        total = sum(edge.value_sum for edge in self.edges) + (self.value or 0.0)
        return total / self.visits if self.visits else 0.5

    @property
    def depth(self) -> int:
        return self.state.depth

    def path(self) -> list[Edge]:
        """Edges from the root to here."""
        edges: list[Edge] = []
        node = self
        while node.parent is not None and node.parent_edge is not None:
            edges.append(node.parent_edge)
            node = node.parent
        return edges[::-1]

    def walk(self) -> Iterator["Node"]:
        """This node and all below, parents first."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(e.child for e in reversed(node.edges) if e.child is not None)
