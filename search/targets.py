"""What models may learn from a finished search. Pure functions over its tree."""

from collections.abc import Iterator
from dataclasses import dataclass

from search.mcts import Search
from search.state import Option, State
from search.tree import Edge, Node


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two options of one state, the first found better than the second."""

    state: State
    chosen: Option
    rejected: Option
    q_chosen: float
    q_rejected: float
    """0 for an option that the tool found unsound and that was never tried."""
    visits_chosen: int
    visits_rejected: int

    @property
    def margin(self) -> float:
        return self.q_chosen - self.q_rejected


@dataclass(frozen=True, slots=True)
class ValueTarget:
    state: State
    value: float
    """Mean of all values backed up through the state, its own among them: W / N."""
    visits: int


@dataclass(frozen=True, slots=True)
class StepLabel:
    """Whether the state's last option was a good one."""

    state: State
    is_good: bool
    value: float
    """Q of the option; 0 when the tool found it unsound."""


@dataclass(frozen=True, slots=True)
class PolicyTarget:
    """How the search would distribute itself over a state's options."""

    state: State
    options: tuple[Option, ...]
    shares: tuple[float, ...]
    """Visits of each option over those of all; they sum to 1."""


def preference_pairs(
    search: Search, min_margin: float = 0.1, min_visits: int = 1, with_unsound: bool = True
) -> list[PreferencePair]:
    """Under each state the best option against the worst (rStar-Math, MCTS-DPO), by Q.

    Options with fewer than `min_visits` visits take no part, except unsound ones, which count as
    the worst. States whose best and worst are less than `min_margin` apart give no pair.
    """
    pairs = []
    for node in search.nodes:
        tried = [e for e in node.edges if e.visits >= max(1, min_visits) and not e.unsound_reason]
        if not tried:
            continue
        best = max(tried, key=_q)
        unsound = [e for e in node.edges if e.unsound_reason] if with_unsound else []
        # Of several refuted options the likeliest is the mistake worth unlearning.
        worst = max(unsound, key=lambda e: e.prior, default=None) or min(tried, key=_q)
        pair = PreferencePair(
            node.state, best.option, worst.option, _q(best), _q(worst), best.visits, worst.visits
        )
        if pair.margin >= min_margin and worst is not best:
            pairs.append(pair)
    return pairs


def value_targets(search: Search, min_visits: int = 1) -> list[ValueTarget]:
    """W / N of every state with enough visits: the visit-weighted Q that V(s) should foresee."""
    return [
        ValueTarget(node.state, node.mean, node.visits)
        for node in search.nodes
        if node.visits >= max(1, min_visits)
    ]


def step_labels(search: Search, threshold: float = 0.5, min_visits: int = 1) -> list[StepLabel]:
    """Good where the value after the option is above `threshold` (AlphaLLM, section 4.4)."""
    labels = []
    for node, edge in _edges(search):
        if edge.unsound_reason:
            labels.append(StepLabel(node.state.extended(edge.option), False, 0.0))
        elif edge.visits >= max(1, min_visits):
            q = _q(edge)
            labels.append(StepLabel(node.state.extended(edge.option), q > threshold, q))
    return labels


def policy_targets(search: Search, min_visits: int = 2) -> list[PolicyTarget]:
    """Visit shares of the options of each state that was gone through `min_visits` times."""
    targets = []
    for node in search.nodes:
        total = sum(e.visits for e in node.edges)
        if total >= max(1, min_visits):
            targets.append(
                PolicyTarget(
                    node.state,
                    tuple(e.option for e in node.edges),
                    tuple(e.visits / total for e in node.edges),
                )
            )
    return targets


def _q(edge: Edge) -> float:
    return 0.0 if edge.unsound_reason or not edge.visits else edge.value_sum / edge.visits


def _edges(search: Search) -> Iterator[tuple[Node, Edge]]:
    for node in search.nodes:
        for edge in node.edges:
            yield node, edge
