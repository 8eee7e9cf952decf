"""Training data read out of a finished search. Pure functions."""

from dataclasses import dataclass

from search.candidates import Candidate
from search.interfaces import Rollout
from search.mcts import Search
from search.score import Score


@dataclass(frozen=True, slots=True)
class Step:
    text: str
    num_tokens: int
    visit_share: float | None
    """Visits of the option over those of its siblings; None outside the tree."""
    q: float | None
    """Mean value of the option; None outside the tree or before a visit."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A finished text, step by step, with what the search thinks of each step."""

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    """Tokens after the prompt, exactly as generated."""
    steps: tuple[Step, ...]
    answer: str | None
    outcome: Score
    is_sound: bool | None


def first_text(search: Search) -> Rollout | None:
    """The text that the policy writes without search, as far as the search came to it."""
    if search.root.rollouts:
        return search.root.rollouts[0]
    node = search.root
    while node.edges and (child := node.edges[0].child) is not None:
        node = child
    return node.rollouts[0] if node.rollouts else None


def trajectory(search: Search, candidate: Candidate) -> Trajectory:
    """The candidate's text with visit shares and Q where it runs through the tree."""
    state = candidate.rollout.state
    steps: list[Step] = []
    node = candidate.node.root
    is_inside = True
    for option in state.options:
        edge = next((e for e in node.edges if e.option.tokens == option.tokens), None)
        is_inside = is_inside and edge is not None
        share = q = None
        if is_inside and edge is not None:
            total = sum(e.visits for e in node.edges)
            share = edge.visits / total if total else None
            q = edge.q
            is_inside = edge.child is not None
            node = edge.child or node
        steps.append(Step(option.text, len(option.tokens), share, q))
    return Trajectory(
        state.prompt_tokens,
        tuple(t for option in state.options for t in option.tokens),
        tuple(steps),
        candidate.rollout.answer,
        candidate.rollout.outcome,
        candidate.rollout.is_sound,
    )
