"""A task of somebody else's: what goes wrong in it is told with its name, and it is tried first."""

import functools
import math
import random
import traceback
from collections.abc import Callable
from typing import Any, get_args

from agent.tasks.task import Proves, Task
from search.errors import RatchetError, UsageError
from search.merge import StepClaim
from search.score import Finding

RETURNS: dict[str, tuple[type, ...]] = {
    "draw": (tuple,),
    "read": (str,),
    "question": (str,),
    "prompt": (str,),
    "key": (str,),
    "answer_of": (str, type(None)),
    "same_answer": (bool,),
    "is_correct": (bool,),
    "check_step": (Finding,),
    "claim_of": (StepClaim, type(None)),
    "questions": (tuple, type(None)),
    "doubts": (tuple,),
    "variant": (tuple, type(None)),
}
"""Methods that a task of one's own overrides, and what each gives back."""


def guarded(task: Task, name: str) -> Task:
    """The task, its methods watched. Raises UsageError where one of them fails at once."""
    for method, kinds in RETURNS.items():
        if getattr(type(task), method) is not getattr(Task, method):
            setattr(task, method, _watched(getattr(task, method), name, kinds))
    _tried(task, name)
    return task


def _watched(method: Callable[..., Any], name: str, kinds: tuple[type, ...]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            found = method(*arguments, **named)
        except (RatchetError, NotImplementedError):
            raise
        except Exception as error:  # of somebody's own code: any
            last = traceback.extract_tb(error.__traceback__)[-1]
            shown = ", ".join(repr(a)[:60] for a in arguments)
            raise UsageError(
                f"task {name!r}: {method.__name__}({shown}) failed: "
                f"{type(error).__name__}: {error}",
                f"correct {last.filename}, line {last.lineno}",
            ) from error
        if not isinstance(found, kinds):
            wanted = " or ".join("None" if k is type(None) else k.__name__ for k in kinds)
            raise UsageError(
                f"task {name!r}: {method.__name__} gave back a {type(found).__name__}",
                f"let it give back a {wanted}",
            )
        return found

    return call


def _tried(task: Task, name: str) -> None:
    """One problem through all that a round would ask of it."""
    if task.proves not in get_args(Proves):
        raise UsageError(
            f"task {name!r}: proves is {task.proves!r}",
            f"use one of {', '.join(get_args(Proves))}",
        )
    try:
        problems = task.seeds(1, 0)
    except NotImplementedError as error:
        raise UsageError(
            f"task {name!r} has no draw(rng) and no problems of its own",
            "write draw(rng) -> (text, answer), or seeds, held_out and labelled",
        ) from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"task {name!r}: no problem can be drawn: {error}",
            "let draw(rng) give back a text and an answer, which may be None",
        ) from error
    for problem in problems:
        task.key(task.read(problem.text))
        task.prompt(problem.text)
        task.check_step(problem.text, ["1\n"])
        task.claim_of("1\n")
        task.questions(problem.text, ["1\n"])
        few, more = (task.doubts(problem.text, steps) for steps in (["1\n"], ["1\n", "2"]))
        if len(few) != len(more) or not all(map(math.isfinite, (*few, *more))):
            raise UsageError(
                f"task {name!r}: doubts gave back {few} and {more}",
                "let it give back as many finite numbers for any text",
            )
        made = task.variant(problem.text, ["1\n", "2"], random.Random(0))
        if made is not None and not (
            len(made) == 2 and isinstance(made[0], str) and all(isinstance(s, str) for s in made[1])
        ):
            raise UsageError(
                f"task {name!r}: variant gave back {made!r:.80}",
                "let it give back a text and its steps, or None",
            )
        answer = task.answer_of(["1\n", "2"])
        if answer is not None and problem.answer is not None:
            task.is_correct(answer, problem.answer)
