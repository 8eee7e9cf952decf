"""Other wordings of a problem, whose answers may be compared with its own."""

from collections.abc import Callable
from dataclasses import replace

from agent.tasks.task import Task, generator
from search.state import Problem

TRIES = 50
"""Draws for each wording."""


def wordings_of(
    task: Task,
    problem: Problem,
    num: int,
    seed: int,
    is_fitting: Callable[[Problem], bool] = lambda problem: True,
) -> list[Problem]:
    """At most `num` different other wordings of a problem, whose answers may be compared."""
    keeping = [o for o in task.operators if o.keeps_answer]
    rng = generator("wordings", seed, problem.id)
    keys = {task.key(problem.text)}
    found: list[Problem] = []
    for _ in range(TRIES * num if keeping else 0):
        if len(found) == num:
            break
        operator = rng.choice(keeping)
        other = operator.apply(problem, rng)
        if other is None or task.key(other.text) in keys or not is_fitting(other):
            continue
        keys.add(task.key(other.text))
        found.append(replace(other, origin=f"{operator.name}:{problem.id}", family=problem.id))
    return found
