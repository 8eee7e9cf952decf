"""The tree: N and W are stored on edges, Q is derived; what is in flight is counted apart.

Each node hangs on one edge, the root on an edge of its own, so N and W of a node are its edge's.
"""

from dataclasses import dataclass, field

from search.interfaces import Rollout
from search.score import Score
from search.state import Option, State

NO_OPTION = Option((), "", 0.0, "boundary")


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
    is_closed: bool = False
    """No simulation may go this way: pruned, or nothing is left to try below."""
    unsound_reason: str = ""
    """What the task's tool finds wrong with the option; empty otherwise."""
    dead_ends: int = 0
    """Expansions below that brought no open option; selection counts each as a visit of value 0."""
    noise: float = 0.0
    """The option's draw at a noisy root, 0 elsewhere: Gumbel, or Gamma for Dirichlet noise."""
    mass: float = 0.0
    """What of P is still to explore: not refuted, and not that of texts found below."""
    alternatives: list[Option] = field(default_factory=list)
    """Equivalent options that were merged into this one."""

    @property
    def q(self) -> float | None:
        """Mean value W / N; None before the first visit."""
        return self.value_sum / self.visits if self.visits else None

    @property
    def prune_reason(self) -> str:
        """Why the option is never taken; empty when it may be."""
        return self.unsound_reason if self.is_closed and self.child is None else ""


@dataclass(slots=True, eq=False)
class Node:
    """A state in the tree. N(node) = own evaluations + sum of N(edges)."""

    state: State
    ix: int
    """Order of creation; the root is 0."""
    parent_edge: Edge
    parent: "Node | None" = None
    edges: list[Edge] = field(default_factory=list)
    prior_mass: float = 0.0
    """Sum of the priors of the edges that were not pruned."""
    drawn_mass: float = 0.0
    """Probability of all options drawn so far, pruned and merged ones included."""
    num_open: int = 0
    """Edges that are not closed."""
    mass: float = 1.0
    """What of the node's probability, 1, is still to explore, options not drawn yet included."""
    sound: "dict[str, Edge]" = field(default_factory=dict)
    """By what a step works out, the option that no tool refuted."""
    spare: dict[str, float] = field(default_factory=dict)
    """By what a step works out, the probability of those that the tool refuted, as long as there is
    none that it did not."""
    last_prior: float = 1.0
    """Of the most probable different options the last one's: no later one has more. 1 where options
    come in another order."""
    value: float | None = None
    """Own evaluation v(s); None before it, or when it stayed unscored."""
    importance: float = 0.0
    """I(s) = max |v(child) - v(s)| over the evaluated children; 0 while there are none."""
    scores: tuple[Score, ...] = ()
    rollouts: tuple[Rollout, ...] = ()
    num_evaluations: int = 0
    num_failures: int = 0
    num_drawn: int = 0
    """Options asked for so far; the proposer may have returned fewer."""
    is_expanding: bool = False
    is_closed: bool = False
    """Nothing is left to try below."""

    @property
    def visits(self) -> int:
        return self.parent_edge.visits

    @property
    def pending(self) -> int:
        return self.parent_edge.pending

    @property
    def mean(self) -> float:
        """Mean of all values at and below the node; one half before the first."""
        edge = self.parent_edge
        return edge.value_sum / edge.visits if edge.visits else 0.5

    @property
    def depth(self) -> int:
        return len(self.state.options)

    @property
    def unseen_mass(self) -> float:
        """Probability of the options that were not drawn yet."""
        return max(0.0, 1.0 - self.drawn_mass)

    def add(self, edge: Edge) -> None:
        self.edges.append(edge)
        self.prior_mass += edge.prior
        edge.mass = edge.prior
        self.num_open += 1

    def explore(self, share: float) -> None:
        """Take `share` of the node's probability off what is to explore, here and above."""
        node = self
        while True:
            node.mass = min(1.0, max(0.0, node.mass - share))
            if node.parent is None:
                return
            edge = node.parent_edge
            share *= edge.prior
            edge.mass = max(0.0, edge.mass - share)
            node = node.parent

    def lend(self, edge: Edge, prior: float) -> None:
        """Let an open option stand for refuted ones of this probability, too."""
        edge.prior += prior
        self.prior_mass += prior
        if not edge.is_closed:
            share = prior * (edge.child.mass if edge.child else 1.0)
            edge.mass += share
            self.explore(-share)

    def prune(self, edge: Edge) -> None:
        """Close an option that has no child."""
        if not edge.is_closed:
            edge.is_closed = True
            self.prior_mass -= edge.prior
            self.num_open -= 1
            edge.mass = 0.0
            self.explore(edge.prior)

    def close(self) -> None:
        """No simulation comes here any more."""
        self.is_closed = True
        self.explore(self.mass)
        if not self.parent_edge.is_closed:
            self.parent_edge.is_closed = True
            if self.parent is not None:
                self.parent.num_open -= 1

    def path(self) -> list[Edge]:
        """Edges from the root to here, the root's own left out."""
        edges: list[Edge] = []
        node = self
        while node.parent is not None:
            edges.append(node.parent_edge)
            node = node.parent
        return edges[::-1]

    @property
    def root(self) -> "Node":
        node = self
        while node.parent is not None:
            node = node.parent
        return node


def new_root(state: State, ix: int = 0) -> Node:
    return Node(state, ix, Edge(NO_OPTION, 1.0))
