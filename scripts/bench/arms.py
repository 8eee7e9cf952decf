"""Ways to answer held-out problems with a policy and critics, at budgets of tokens that the policy
reads.

Every arm is given the same problems and the same models. All tokens count that the policy reads,
discarded ones included; the problem's own prompt, which every arm reads once, is left out. A
budget bounds the mean over the problems: each arm is taken at the largest setting
(a cap on a problem's tokens for sampling and for the search, a width for beams and lines of play)
whose mean cost is within it, so an arm that may end early on one problem has more for another.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.evaluation.answering import sample_rollouts
from agent.search_models import Models
from agent.tasks.wordings import wordings_of
from critics.rollout import scored
from search import frontier
from search.interfaces import ExpandRequest, Rollout
from search.mcts import Leaf, Search
from search.randomness import derive_seed
from search.settings import SearchSettings
from search.state import Problem, State

TEMPERATURE = 0.8
SAMPLED = "sampled"
COHORT = 256
"""Searches that share their batches."""
WIDTHS = (1, 2, 4, 8, 16, 32, 48)
BEAMS = ((1, 2), (2, 2), (2, 4), (4, 4), (4, 8))
"""(states kept, options drawn for each)."""


@dataclass(frozen=True, slots=True)
class Point:
    """What one problem's answer was when so many tokens had been spent."""

    tokens: int
    answer: str | None
    confidence: float | None = None
    """What the search said of it."""


@dataclass(slots=True)
class Curves:
    """For each problem its points in order of tokens: what it would have answered, and when."""

    points: list[list[Point]]

    def capped(self, cap: int) -> list[Point]:
        """What each problem had come to when the next point would have gone over the cap."""
        nothing = Point(0, None)
        return [
            next((p for p in reversed(points) if p.tokens <= cap), nothing)
            for points in self.points
        ]

    def best(self, budget: int) -> list[Point]:
        """Under the largest cap whose mean cost is within the budget."""
        caps = sorted({p.tokens for points in self.points for p in points})
        low, high = 0, len(caps)
        while low < high:
            middle = (low + high) // 2
            if _mean_tokens(self.capped(caps[middle])) <= budget:
                low = middle + 1
            else:
                high = middle
        return self.capped(caps[low - 1]) if low else self.capped(0)


@dataclass(slots=True)
class Widths:
    """Whole runs at several widths; the widest whose mean cost is within a budget counts."""

    runs: list[list[Point]]
    """By width, a point for each problem."""

    def best(self, budget: int) -> list[Point]:
        inside = [run for run in self.runs if _mean_tokens(run) <= budget]
        return inside[-1] if inside else [Point(0, None)] * len(self.runs[0])


Arm = Curves | Widths


def _mean_tokens(points: Sequence[Point]) -> float:
    return sum(p.tokens for p in points) / len(points)


def greedy(models: Models, problems: Sequence[Problem]) -> Curves:
    groups = sample_rollouts(models, problems, 1, 0.0, 0)
    return Curves([[Point(r.num_fed, r.answer) for r in group] for group in groups])


def sampled(
    models: Models, problems: Sequence[Problem], budget: int, seed: int
) -> list[list[Rollout]]:
    """Scored samples of each problem, at least up to the budget."""
    groups: list[list[Rollout]] = [[] for _ in problems]
    for batch in range(64):
        short = [i for i, g in enumerate(groups) if sum(r.num_fed for r in g) < budget]
        if not short:
            break
        found = sample_rollouts(
            models, [problems[i] for i in short], 8, TEMPERATURE, derive_seed(seed, batch)
        )
        for i, group in zip(short, found, strict=True):
            groups[i] += group
    # Equal texts are scored once. The first of each problem comes before the others, so that the
    # critic has read the prompt.
    firsts = {g[0].state.key: g[0].state for g in groups}
    others = {r.state.key: r.state for g in groups for r in g if r.state.key not in firsts}
    scores = {
        key: score
        for part in (firsts, others)
        for key, score in zip(part, models.outcome_scores([*part.values()]), strict=True)
    }
    return [[scored(r, scores[r.state.key]) for r in g] for g in groups]


Weight = Callable[[Rollout], float | None]
"""None leaves a text out of the vote."""


Cost = Callable[[Rollout, int], int]
"""Tokens read for a text, the so-manyth of its problem."""


def vote(
    groups: Sequence[Sequence[Rollout]], weight: Weight, cost: Cost = lambda r, i: r.num_fed
) -> Curves:
    """After each sample the answer with most weight behind it."""
    curves: list[list[Point]] = []
    for group in groups:
        votes: dict[str, float] = {}
        points, tokens = list[Point](), 0
        for i, r in enumerate(group):
            tokens += cost(r, i)
            share = weight(r)
            if r.answer is not None and share is not None:
                votes[r.answer] = votes.get(r.answer, 0.0) + share
            points.append(Point(tokens, max(votes, key=lambda a: votes[a], default=None)))
        curves.append(points)
    return Curves(curves)


def best_of_n(groups: Sequence[Sequence[Rollout]]) -> Curves:
    """After each sample the answer with the best outcome score so far."""
    curves: list[list[Point]] = []
    for group in groups:
        best: tuple[float, str | None] = (-1.0, None)
        points, tokens = list[Point](), 0
        for r in group:
            tokens += r.num_fed
            score = r.outcome.value
            # An unscored text is no worst one: it is out of the contest.
            if r.answer is not None and score is not None and score > best[0]:
                best = (score, r.answer)
            points.append(Point(tokens, best[1]))
        curves.append(points)
    return Curves(curves)


def orm(rollout: Rollout) -> float | None:
    return rollout.outcome.value


def until_sound(models: Models, problems: Sequence[Problem], budget: int, seed: int) -> Curves:
    """Tool-filtered sampling: sample until the tool finds a whole text sound, and answer that."""
    curves: list[list[Point]] = [[] for _ in problems]
    spent = [0] * len(problems)
    live = list(range(len(problems)))
    for batch in range(budget):
        live = [i for i in live if spent[i] < budget]
        if not live:
            break
        found = sample_rollouts(
            models, [problems[i] for i in live], 4, TEMPERATURE, derive_seed(seed, batch, "sound")
        )
        sound = set[int]()
        for i, group in zip(live, found, strict=True):
            for r in group:
                if i in sound:
                    break
                spent[i] += r.num_fed
                curves[i].append(Point(spent[i], r.answer))
                if r.is_sound:
                    sound.add(i)
        live = [i for i in live if i not in sound]
    return Curves(curves)


def enumerated(models: Models, problems: Sequence[Problem], budget: int) -> Curves:
    """Our own proposals without a tree: at each state the most probable different options, one
    after the other, until the tool does not refute one."""
    return _line_by_line(models, problems, budget, 0)


def sampled_lines(models: Models, problems: Sequence[Problem], budget: int, seed: int) -> Curves:
    """Sampled options, one after the other, each kept if the tool does not refute it."""
    heat = replace(models.settings, proposal="sampled", temperature=TEMPERATURE)
    return _line_by_line(models.with_search(heat), problems, budget, seed)


def _line_by_line(models: Models, problems: Sequence[Problem], budget: int, seed: int) -> Curves:
    states = [models.root(p) for p in problems]
    tried, tokens = [0] * len(states), [0] * len(states)
    live = list(range(len(states)))
    while live:
        proposals = models.propose([_next_line(models, states[i], tried[i], seed) for i in live])
        going = []
        for i, proposal in zip(live, proposals, strict=True):
            tokens[i] += proposal.num_tokens
            is_new = len(proposal.options) > (
                tried[i] if models.settings.proposal != SAMPLED else 0
            )
            tried[i] += 1
            if not is_new or tokens[i] > budget:
                continue
            if not proposal.unsound or not proposal.unsound[-1]:
                states[i], tried[i] = states[i].extended(proposal.options[-1]), 0
            if not states[i].is_terminal:
                going.append(i)
        live = going
    return Curves([[Point(t, _answer(models, s))] for t, s in zip(tokens, states, strict=True)])


def _next_line(models: Models, state: State, tried: int, seed: int) -> ExpandRequest:
    """One line more: the next most probable one, or a sample of its own."""
    if models.settings.proposal == SAMPLED:
        return ExpandRequest(state, 1, derive_seed(seed, state.key, tried, "line"))
    return ExpandRequest(state, tried + 1, 0, tried)


def worded(models: Models, problems: Sequence[Problem], num: int, seed: int) -> Curves:
    """Greedy answers to several wordings of each problem, weighed by their outcome scores. The
    prompts of the others count."""
    families = [[p, *wordings_of(models.task, p, num - 1, seed)] for p in problems]
    flat = [p for family in families for p in family]
    texts = [group[0] for group in sample_rollouts(models, flat, 1, 0.0, seed)]
    scores = models.outcome_scores([r.state for r in texts])
    found = iter([scored(r, s) for r, s in zip(texts, scores, strict=True)])
    groups = [[next(found) for _ in family] for family in families]
    return vote(groups, orm, lambda r, i: r.num_fed + (len(r.state.prompt_tokens) if i else 0))


def line_of_play(models: Models, problems: Sequence[Problem]) -> Widths:
    """At each state the most probable option that the tool does not refute, of K distinct ones."""
    return Widths([_played(models, problems, k) for k in WIDTHS])


def _played(models: Models, problems: Sequence[Problem], width: int) -> list[Point]:
    states = [models.root(p) for p in problems]
    tokens = [0] * len(states)
    stuck = [False] * len(states)
    for _ in range(24):
        live = [i for i, s in enumerate(states) if not s.is_terminal and not stuck[i]]
        if not live:
            break
        found = models.propose([ExpandRequest(states[i], width, 0) for i in live])
        for i, proposal in zip(live, found, strict=True):
            tokens[i] += proposal.num_tokens
            sound = [
                o for o, u in zip(proposal.options, proposal.unsound, strict=True) if not u
            ] or list(proposal.options[:1])
            stuck[i] = not sound
            states[i] = states[i].extended(sound[0]) if sound else states[i]
    return [Point(t, _answer(models, s)) for t, s in zip(tokens, states, strict=True)]


def _answer(models: Models, state: State) -> str | None:
    return models.answer_of(state) if state.is_finished else None


def prm_beam(models: Models, problems: Sequence[Problem]) -> Widths:
    """Step-level beam search: keep the states that the process critic scores best."""
    return Widths([_beamed(models, problems, keep, draw) for keep, draw in BEAMS])


def _beamed(models: Models, problems: Sequence[Problem], keep: int, draw: int) -> list[Point]:
    beams: list[list[tuple[float, State]]] = [[(1.0, models.root(p))] for p in problems]
    tokens = [0] * len(problems)
    for _ in range(24):
        open_states = [(i, s) for i, beam in enumerate(beams) for _, s in beam if not s.is_terminal]
        if not open_states:
            break
        found = models.propose([ExpandRequest(s, draw, 0) for _, s in open_states])
        grown: list[tuple[int, State]] = []
        for (i, state), proposal in zip(open_states, found, strict=True):
            tokens[i] += proposal.num_tokens
            options = [o for o, u in zip(proposal.options, proposal.unsound, strict=True) if not u]
            grown += [(i, state.extended(o)) for o in options or proposal.options[:1]]
        scores = models.process_scores([s for _, s in grown])
        fresh: list[list[tuple[float, State]]] = [
            [(v, s) for v, s in beam if s.is_terminal] for beam in beams
        ]
        for (i, state), score in zip(grown, scores, strict=True):
            fresh[i].append((0.5 if score.value is None else score.value, state))
        beams = [sorted(beam, key=lambda b: -b[0])[:keep] for beam in fresh]
    chosen = [
        max((b for b in beam if b[1].is_finished), key=lambda b: b[0], default=None)
        for beam in beams
    ]
    return [
        Point(t, _answer(models, c[1]) if c else None) for t, c in zip(tokens, chosen, strict=True)
    ]


def coverage(
    models: Models, problems: Sequence[Problem], groups: Sequence[Sequence[Rollout]]
) -> Curves:
    """What an oracle would choose among the samples: an upper bound, no way to answer."""
    curves: list[list[Point]] = []
    for problem, group in zip(problems, groups, strict=True):
        tokens, right = 0, None
        points = list[Point]()
        for r in group:
            tokens += r.num_fed
            right = right or _if_right(models, problem, r.answer)
            points.append(Point(tokens, right))
        curves.append(points)
    return Curves(curves)


def _if_right(models: Models, problem: Problem, answer: str | None) -> str | None:
    return answer if models.task.is_correct(answer, problem.answer or "") else None


def searched(
    models: Models, problems: Sequence[Problem], settings: SearchSettings, seed: int
) -> tuple[Curves, Curves]:
    """Our search: after each simulation the answer it would give, and the one an oracle would."""
    own = models.with_search(settings)
    searches = [own.search(p, derive_seed(seed, p.id, "bench")) for p in problems]
    by_search = {id(s): p for s, p in zip(searches, problems, strict=True)}
    points: dict[int, list[Point]] = {id(s): [] for s in searches}
    oracle: dict[int, list[Point]] = {id(s): [] for s in searches}

    def told(search: Search, request: object, _: object) -> None:
        if not isinstance(request, Leaf):
            return
        key, tokens = id(search), search.budget.tokens
        result = search.result()
        answer = result.chosen.rollout.answer if result.chosen else None
        points[key].append(Point(tokens, answer, result.confidence))
        right = oracle[key][-1].answer if oracle[key] else None
        for candidate in search.candidates:
            right = right or _if_right(own, by_search[key], candidate.rollout.answer)
        oracle[key].append(Point(tokens, right))

    for start in range(0, len(searches), COHORT):
        part = searches[start : start + COHORT]
        frontier.run(part, own, own, frontier.Listener(told=told), clock=time.monotonic)
    return Curves([points[id(s)] for s in searches]), Curves([oracle[id(s)] for s in searches])


def solved(models: Models, problems: Sequence[Problem], points: Sequence[Point]) -> list[bool]:
    pairs = zip(problems, points, strict=True)
    return [models.task.is_correct(point.answer, p.answer or "") for p, point in pairs]


def unlimited(settings: SearchSettings, max_tokens: int) -> SearchSettings:
    """The same search with nothing but tokens to end it."""
    return replace(settings, simulations=10_000, max_tokens=max_tokens)
