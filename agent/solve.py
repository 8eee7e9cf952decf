"""One question, searched: what the command prints, and what a service answers with."""

import time
from dataclasses import dataclass

from agent.search_models import Models
from agent.tasks.task import problem_id
from search import frontier
from search.candidates import Candidate
from search.errors import TooLongError
from search.mcts import Search
from search.randomness import derive_seed
from search.settings import SearchSettings
from search.state import Problem, State
from search.trajectory import trajectory
from search.tree import Node


@dataclass(frozen=True, slots=True)
class SolutionStep:
    """A step of the answer's text; figures of the tree are None where it does not reach."""

    text: str
    visits: int | None
    """N of its option."""
    q: float | None
    """Mean value of its option, in [0, 1]."""
    prior: float | None
    """P of its option under the policy."""
    scores: dict[str, float]
    """Critic to its score of the state after the step, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What a search found for a question."""

    question: str
    """In the task's normal form."""
    answer: str | None
    """None when no finished text was found."""
    confidence: float | None
    """Share of the outcome scores behind the answer, in [0, 1]; None without an answer."""
    is_sound: bool | None
    """Whether the tool found every step sound; None where it has nothing to say, and where a
    checker alone speaks, which refutes and never proves."""
    checked_by: str
    """The tool's name, `checker`, or empty text where nothing checks steps."""
    steps: tuple[SolutionStep, ...]
    wording: str | None
    """The question as the steps answer it, where that is another wording of it."""
    runner_up: str | None
    """The best other answer; None when there is none."""
    stop_reason: str
    simulations: int
    tokens: int
    """Read by the policy, those of discarded options included."""
    models: dict[str, str]
    """Role to version."""


def solve(models: Models, question: str, seed: int) -> Solution:
    """Search for the answer to one question. Raises TaskError for what is no problem."""
    search = search_for(models, question, seed)
    frontier.run([search], models, models, clock=time.monotonic)
    return solution_of(models, question, search)


def problem_of(models: Models, question: str) -> Problem:
    """The problem that a question puts. Raises TaskError for what is none."""
    task = models.task
    text = task.read(question)
    key = problem_id(task.name, task.key(text))
    return Problem(key, text, pictures=task.pictures(text))


def search_for(
    models: Models,
    question: str,
    seed: int,
    is_alone: bool = False,
    settings: SearchSettings | None = None,
) -> Search:
    """The search that answers a question, to be run in a frontier; see `Models.search`.

    Raises TaskError for what is no problem, or is too long for the policy.
    """
    problem = problem_of(models, question)
    search = models.search(problem, derive_seed(seed, problem.id, "solve"), is_alone, settings)
    check_length(models, search.root.state)
    return search


def check_length(models: Models, root: State) -> None:
    """Raises TooLongError for a prompt that leaves no room for an answer."""
    num_tokens = len(root.tokens)
    longest = models.policy.header.architecture.max_positions
    if num_tokens >= longest:
        raise TooLongError(
            f"the question takes {num_tokens} tokens; the policy's context holds "
            f"{longest} with the answer",
            "shorten it, or use a policy with a longer context",
        )


def solution_of(models: Models, question: str, search: Search) -> Solution:
    """What a search has found so far."""
    result = search.result()
    chosen = result.chosen
    return Solution(
        question=models.task.read(question),
        answer=chosen.rollout.answer if chosen else None,
        confidence=result.confidence,
        is_sound=chosen.rollout.is_sound if chosen else None,
        checked_by=models.checked_by,
        steps=_steps(search, chosen) if chosen else (),
        wording=_other_wording(search, chosen),
        runner_up=result.runner_up.rollout.answer if result.runner_up else None,
        stop_reason=result.stop_reason,
        simulations=result.budget.simulations,
        tokens=result.budget.tokens,
        models=models.versions,
    )


def _other_wording(search: Search, chosen: Candidate | None) -> str | None:
    text = chosen.rollout.state.problem if chosen else search.root.state.problem
    return None if text == search.root.state.problem else text


def _steps(search: Search, chosen: Candidate) -> tuple[SolutionStep, ...]:
    steps: list[SolutionStep] = []
    node: Node | None = chosen.node.root
    options = chosen.rollout.state.options
    for step, option in zip(trajectory(search, chosen).steps, options, strict=True):
        edges = node.edges if node else ()
        edge = next((e for e in edges if e.option.tokens == option.tokens), None)
        node = edge.child if edge else None
        steps.append(
            SolutionStep(
                step.text.strip(),
                edge.visits if edge else None,
                step.q,
                edge.prior if edge else None,
                {s.critic: s.value for s in node.scores if s.value is not None} if node else {},
            )
        )
    return tuple(steps)
