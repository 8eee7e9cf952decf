"""Labelled problems that a round searches to see which answers it may trust."""

from dataclasses import replace

from agent.config.settings import Config
from agent.imagination.decontamination import Decontamination
from agent.rounds.label_sampling import is_measuring
from agent.tasks.task import Task
from agent.tasks.wordings import wordings_of
from search.state import Problem
from store.states import PROBE

DRAWN = 6
"""Labelled problems drawn for each probe wanted: one in four may be one, less those that leak."""


def has_unchecked(config: Config, task: Task) -> bool:
    """Whether rounds have problems whose answers neither the user nor the tool tells, and ask for
    a precision on them."""
    if not config.selection.min_precision:
        return False
    if task.proves != "nothing" and config.critics.use_tool:
        return False
    is_told = task.gives_answers and not config.imagination.schemes
    return not is_told or any(p.answer is None for p in task.given(config.seed))


def num_searched(config: Config, task: Task) -> int:
    """Searches of a round, at most: its problems, and the probes in their wordings."""
    probes = config.selection.probes if has_unchecked(config, task) else 0
    return config.problems_per_round + probes * (1 + config.imagination.wordings)


def probes_of(config: Config, task: Task, guard: Decontamination) -> list[Problem]:
    """Labelled problems from which nothing learns, each followed by its other wordings: the same
    ones in every round."""
    wanted, wordings = config.selection.probes, config.imagination.wordings
    if not wanted or not has_unchecked(config, task):
        return []
    found: list[Problem] = []
    keys: set[str] = set()
    num = 0

    def is_fitting(problem: Problem) -> bool:
        return task.key(problem.text) not in keys and not guard.leak(problem.text)

    for problem in task.labelled(DRAWN * wanted, config.seed):
        if num == wanted:
            break
        if not is_measuring(problem.id) or not is_fitting(problem):
            continue
        num += 1
        others = wordings_of(task, problem, wordings, config.seed, is_fitting)
        family = [replace(problem, family=""), *others]
        keys |= {task.key(p.text) for p in family}
        found += [replace(p, origin=PROBE) for p in family]
    return found
