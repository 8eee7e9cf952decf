"""What the columns of each view mean; the views themselves are made by the migrations.

A line that begins with `=` names the column of a table that is handed on as it is.
"""

from typing import ClassVar


class View:
    """What all views have: a name in the database."""

    __view__: ClassVar[str]


class ReadableRounds(View):
    """A round with what its searches came to."""

    __view__ = "readable_rounds"
    run: str
    """= runs.name"""
    round: int
    """= rounds.number"""
    stage: str
    """= rounds.stage"""
    num_problems: int
    """= rounds.num_problems"""
    started_ts: int
    """= rounds.started_ts"""
    ended_ts: int | None
    """= rounds.ended_ts"""
    error: str | None
    """= rounds.error"""
    num_ended: int
    """Searches that are done or failed."""
    num_tokens: int | None
    """Tokens that its ended searches generated, all models together; empty before the first
    ended."""
    num_solved: int
    """Searches whose answer is right; those with an unknown reference answer are not counted."""
    num_solved_greedily: int
    """Problems that the policy answered rightly without search, by `root_rollout_correct`."""
    num_kept: int | None
    """Texts in the round's dataset; empty before they were chosen."""


class ReadableSearches(View):
    """A search with its run, round and problem."""

    __view__ = "readable_searches"
    search: int
    """= searches.id"""
    run: str
    """= runs.name"""
    round: int
    """= rounds.number"""
    problem: str
    """= problems.text"""
    reference: str | None
    """= problems.answer"""
    answer: str | None
    """= searches.answer"""
    is_correct: bool | None
    """= searches.is_correct"""
    confidence: float | None
    """= searches.confidence"""
    greedy_answer: str | None
    """= searches.root_rollout_answer"""
    greedy_is_correct: bool | None
    """= searches.root_rollout_correct"""
    status: str
    """= searches.status"""
    stop_reason: str | None
    """= searches.stop_reason"""
    num_simulations: int | None
    """= searches.num_simulations"""
    num_tokens: int | None
    """= searches.num_tokens"""
    num_nodes: int | None
    """= searches.num_nodes"""
    policy_version: str | None
    """= searches.policy_version"""
    ended_ts: int | None
    """= searches.ended_ts"""
    is_trimmed: bool
    """= searches.is_trimmed"""


class ReadableNodes(View):
    """A tree node with its text, Q, and the mean of each critic's scores."""

    __view__ = "readable_nodes"
    search: int
    """= nodes.search_id"""
    ix: int
    """= nodes.ix"""
    parent_ix: int | None
    """= nodes.parent_ix"""
    depth: int
    """= nodes.depth"""
    text: str | None
    """= node_texts.text"""
    visits: int
    """= nodes.visits"""
    q: float | None
    """Q = W / N: mean value of the simulations that went through it, in [0, 1]; empty without
    visits."""
    prior: float | None
    """= nodes.prior"""
    stop: str | None
    """= nodes.stop"""
    unsound_reason: str | None
    """= nodes.unsound_reason"""
    num_tokens: int
    """= nodes.num_tokens"""
    value_score: float | None
    """Score of the value critic for the node, in [0, 1]; empty when it gave none."""
    process_score: float | None
    """Score of the process critic for the step, in [0, 1]; empty when it gave none."""
    outcome_score: float | None
    """Mean score of the outcome critic over the node's rollouts, in [0, 1], those without a score
    left out; empty when all are."""


class ReadableTrajectories(View):
    """A finished text with its problem, and in how many datasets it is."""

    __view__ = "readable_trajectories"
    trajectory: int
    """= trajectories.id"""
    search: int
    """= trajectories.search_id"""
    run: str
    """= runs.name"""
    round: int
    """= rounds.number"""
    problem: str
    """= problems.text"""
    text: str
    """= trajectories.text"""
    answer: str | None
    """= trajectories.answer"""
    is_correct: bool | None
    """= trajectories.is_correct"""
    is_chosen: bool
    """= trajectories.is_chosen"""
    is_sound: bool | None
    """= trajectories.is_sound"""
    outcome: float | None
    """= trajectories.outcome"""
    num_datasets: int
    """Datasets that hold the text: 1 if its round chose it to learn from, else 0."""


VIEWS: tuple[type[View], ...] = (
    ReadableRounds,
    ReadableSearches,
    ReadableNodes,
    ReadableTrajectories,
)
