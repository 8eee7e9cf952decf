"""Which edge a simulation takes: rules as pure functions of a node."""

import math
from collections.abc import Callable

from search.expansion import ALL_DRAWN, max_width
from search.settings import SearchSettings
from search.tree import NO_OPTION, Edge, Node

Rule = Callable[[Node, SearchSettings], Edge | None]

UNSEEN = Edge(NO_OPTION, 0.0)
"""What a rule returns to have a node draw options first."""
GUMBEL_VISITS = 50.0
GUMBEL_SCALE = 0.1
"""c_visit and c_scale of Danihelka et al. (2022), for values in [0, 1]."""


def selectable(node: Node) -> list[Edge]:
    """Open edges, less those whose first visit is still under way."""
    return [e for e in node.edges if not e.is_closed and (e.visits or not e.pending)]


def ucb(node: Node, settings: SearchSettings) -> Edge | None:
    """UCB1 as in AlphaLLM: w + C sqrt(2 ln N / n); unvisited edges first, most probable first."""
    own = node.parent_edge
    spread = settings.exploration * math.sqrt(2 * math.log(max(1, own.visits + own.pending)))

    def score(edge: Edge) -> tuple[float, float]:
        if edge.visits == 0:
            return (math.inf, edge.prior)
        count = edge.visits + edge.pending + edge.dead_ends
        return (edge.value_sum / count + spread / math.sqrt(count), edge.prior)

    return max(selectable(node), key=score, default=None)


def puct(node: Node, settings: SearchSettings) -> Edge | None:
    """PUCT (Silver et al. 2017) with priors normalised over the siblings that were not pruned.

    An unvisited option counts as the node's mean less `first_play_reduction`. A simulation under
    way and a dead end count as visits of value 0, so the next one looks elsewhere. After
    `dead_end_patience` dead ends below a node the options that it has not drawn compete too, as
    one (`UNSEEN`), with the probability that the drawn ones leave and a visit for each of those.
    Written as one loop: this is where a search without models spends its time.
    """
    own = node.parent_edge
    mean = own.value_sum / own.visits if own.visits else 0.5
    first_play = max(0.0, mean - settings.first_play_reduction)
    unit = settings.exploration * math.sqrt(max(1, own.visits + own.pending + own.dead_ends))
    unseen = 0.0
    if own.dead_ends >= settings.dead_end_patience and node.num_drawn < max_width(node, settings):
        unseen = node.unseen_mass
    mass = (node.prior_mass + unseen) or 1.0
    noise, unit_of_noise = settings.noise_fraction if node.parent is None else 0.0, 0.0
    if noise:
        unit_of_noise = unit * noise / (sum(e.noise for e in node.edges if not e.is_closed) or 1.0)
        unit *= 1.0 - noise
    unit /= mass
    best, best_score, best_prior = None, -1.0, -1.0
    for edge in node.edges:
        if edge.is_closed:
            continue
        visits = edge.visits
        prior = edge.prior
        if visits:
            count = visits + edge.pending + edge.dead_ends
            score = edge.value_sum / count + unit * prior / (1 + count)
        elif edge.pending:
            continue
        else:
            count = edge.dead_ends
            score = (first_play + unit * prior) / (1 + count)
        if noise:
            score += unit_of_noise * edge.noise / (1 + count)
        if score > best_score or (score == best_score and prior > best_prior):
            best, best_score, best_prior = edge, score, prior
    if unseen and best is not None:
        count = node.num_drawn
        if (first_play + unit * unseen) / (1 + count) > best_score:
            return UNSEEN
    return best


def mass_puct(node: Node, settings: SearchSettings) -> Edge | None:
    """PUCT in which an option's prior is the probability that is still to explore behind it.

    What a tool refuted and what was finished no longer counts, so a simulation goes where most of
    the policy's distribution is left: without values this is best-first search, and sampling
    without replacement where options are drawn. By `order` mass the options to come compete as one
    (`UNSEEN`), of most probable ones with no more than the last had; by `order` depth they wait
    until none is open. Until a text was finished nothing is known of values: priors alone lead.
    """
    own = node.parent_edge
    mean = own.value_sum / own.visits if own.visits else 0.0
    first_play = max(0.0, mean - settings.first_play_reduction)
    unit = settings.exploration * math.sqrt(max(1, own.visits + own.pending)) / (node.mass or 1.0)
    noise = settings.noise_fraction if node.parent is None else 0.0
    unit_of_noise = 0.0
    if noise:
        drawn = sum(e.noise for e in node.edges if not e.is_closed) or 1.0
        unit_of_noise = unit * noise * (node.mass or 1.0) / drawn
        unit *= 1.0 - noise
    best, best_score, best_mass = None, -1.0, -1.0
    for edge in node.edges:
        if edge.is_closed or (edge.pending and not edge.visits):
            continue
        count = edge.visits + edge.pending
        value = edge.value_sum / count if edge.visits else first_play
        score = value + unit * edge.mass / (1 + count)
        if noise:
            score += unit_of_noise * edge.noise / (1 + count)
        if score > best_score or (score == best_score and edge.mass > best_mass):
            best, best_score, best_mass = edge, score, edge.mass
    if settings.order != "depth" and node.num_drawn < ALL_DRAWN:
        coming = min(node.unseen_mass, node.last_prior)
        if coming and first_play + unit * coming > best_score:
            return UNSEEN
    return best


def considered_visits(num_considered: int, simulations: int) -> list[int]:
    """For each simulation how often the option it takes has been visited: sequential halving.

    Karnin, Koren and Somekh (2013), as in Danihelka et al. (2022): the options are halved about
    log2(m) times, and each phase spreads an equal share of the budget over those that are left.

    >>> considered_visits(4, 8)
    [0, 0, 0, 0, 1, 1, 2, 2]
    """
    if num_considered < 2:
        return list(range(simulations))
    phases = math.ceil(math.log2(num_considered))
    left, visits = num_considered, 0
    sequence: list[int] = []
    while len(sequence) < simulations:
        for _ in range(max(1, simulations // (phases * left))):
            sequence += [visits] * left
            visits += 1
        left = max(2, left // 2)
    return sequence[:simulations]


def gumbel(node: Node, settings: SearchSettings) -> Edge | None:
    """Sequential halving over the root's options by g + ln P + sigma(Q).

    g is the option's Gumbel draw, so the options considered are a sample without replacement from
    the prior; sigma(Q) = (c_visit + max N) c_scale Q (Danihelka et al. 2022, equations 8 and 12).
    An unvisited option's Q is the root's own value.
    """
    edges = selectable(node)
    if not edges:
        return None
    most = max(e.visits for e in node.edges)
    guess = node.mean if node.value is None else node.value

    def rank(edge: Edge) -> float:
        return edge.noise + math.log(max(edge.prior, 1e-30))

    def score(edge: Edge) -> float:
        q = edge.value_sum / edge.visits if edge.visits else guess
        return rank(edge) + (GUMBEL_VISITS + most) * GUMBEL_SCALE * q

    budget = max(1, settings.simulations - 1)
    m = min(settings.num_considered, budget, len(node.edges))
    entered = sorted(node.edges, key=rank, reverse=True)[:m]
    done = sum(e.visits + e.pending for e in node.edges)
    wanted = considered_visits(m, max(budget, done + 1))[done]
    even = [e for e in edges if e in entered and e.visits + e.pending == wanted]
    return max(even or edges, key=score)


RULES: dict[str, Rule] = {
    "puct": puct,
    "mass_puct": mass_puct,
    "ucb": ucb,
    "gumbel": gumbel,
}
