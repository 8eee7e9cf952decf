"""`ratchet solve`: one question, searched."""

import time
from typing import Any

from rich.console import Console
from rich.markup import escape

from agent.cli.output import emit
from agent.config.load import Config
from agent.open_models import asking
from agent.tasks.registry import open_task
from agent.tasks.task import Task, problem_id
from search import frontier
from search.candidates import Candidate
from search.mcts import Search
from search.randomness import derive_seed
from search.state import Problem
from search.trajectory import trajectory
from search.tree import Node


def run(config: Config, question: str, as_json: bool) -> None:
    task = open_task(config.task, config.problems)
    text = task.read(question)
    document = _solve(config, task, text)
    if as_json:
        emit(document)
    else:
        _show(document)


def _solve(config: Config, task: Task, text: str) -> dict[str, Any]:
    problem = Problem(problem_id(task.name, task.key(text)), text)
    with asking(config) as (models, _, refs):
        root = models.root(problem)
        search = Search(root, models.settings, derive_seed(config.seed, problem.id, "solve"))
        frontier.run([search], models, models, clock=time.monotonic)
    result = search.result()
    return {
        "question": text,
        "answer": result.chosen.rollout.answer if result.chosen else None,
        "confidence": result.confidence,
        "is_sound": result.chosen.rollout.is_sound if result.chosen else None,
        "steps": _steps(search, result.chosen) if result.chosen else [],
        "runner_up": result.runner_up.rollout.answer if result.runner_up else None,
        "stop_reason": result.stop_reason,
        "simulations": result.budget.simulations,
        "tokens": result.budget.tokens,
        "models": {role: ref.version for role, ref in refs.items()},
        "seed": config.seed,
        "config_sha": config.digest(),
    }


def _steps(search: Search, chosen: Candidate) -> list[dict[str, Any]]:
    """Each step with N and Q of its option and the critics' scores where the tree has them."""
    rows: list[dict[str, Any]] = []
    node: Node | None = search.root
    for step, option in zip(
        trajectory(search, chosen).steps, chosen.rollout.state.options, strict=True
    ):
        edge = (
            next((e for e in node.edges if e.option.tokens == option.tokens), None)
            if node
            else None
        )
        node = edge.child if edge else None
        rows.append(
            {
                "text": step.text.strip(),
                "n": edge.visits if edge else None,
                "q": step.q,
                "prior": edge.prior if edge else None,
                "critics": {s.critic: s.value for s in node.scores if s.value is not None}
                if node
                else {},
            }
        )
    return rows


def _show(document: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)

    def number(value: float | None) -> str:
        return "   -" if value is None else f"{value:.2f}"

    console.print(f"[bold]{escape(str(document['answer'] or 'no answer found'))}[/]")
    for step in document["steps"]:
        visits = "-" if step["n"] is None else step["n"]
        critics = " ".join(f"{k} {v:.2f}" for k, v in step["critics"].items())
        console.print(
            f"  {escape(step['text']):<28} N {visits:>3}  Q {number(step['q'])}  "
            f"P {number(step['prior'])}  {critics}"
        )
    sound = {True: "every step checked by the tool", False: "a step is unsound", None: "unchecked"}
    console.print(
        f"confidence {document['confidence']:.2f} · {sound[document['is_sound']]} · "
        f"runner-up {document['runner_up'] or 'none'} · {document['simulations']} simulations, "
        f"{document['tokens']} tokens, stopped: {document['stop_reason']}"
    )
