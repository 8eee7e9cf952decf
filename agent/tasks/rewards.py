"""Rewards of one's own, in the form that verl calls: a function of the text and the right answer.

    def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float

`--set selection.reward=FILE.py:compute_score` keeps texts by it; critics/reward.py holds one.
"""

import inspect
import math
from collections.abc import Callable

from agent.tasks.registry import attribute_of
from search.errors import UsageError
from store.selection import Find


def own_reward(name: str) -> Callable[[Find], float]:
    """The reward that `FILE.py:FUNCTION` names. Raises UsageError for one that cannot be used."""
    file, colon, attribute = name.rpartition(":")
    if not colon:
        raise UsageError(
            f"setting 'selection.reward' is {name!r}", "write FILE.py:FUNCTION, or leave it out"
        )
    function = attribute_of(file, attribute, "reward")
    if not callable(function):
        raise UsageError(f"{name!r} is no function", "name a function behind the ':'")

    try:
        inspect.signature(function).bind(
            data_source="", solution_str="", ground_truth="", extra_info={}
        )
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"reward {name!r} cannot be called as verl calls it: {error}",
            "write def compute_score(data_source, solution_str, ground_truth, extra_info=None)",
        ) from error

    def reward(find: Find) -> float:
        try:
            told = function(
                data_source="ratchet",
                solution_str="".join(find.steps),
                ground_truth=find.reference or "",
                extra_info={"problem": find.problem, "is_sound": find.is_sound},
            )
            value = float(told["score"] if isinstance(told, dict) else told)
        except Exception as error:  # of somebody's own code: any
            raise UsageError(
                f"reward {name!r} failed on {find.problem[:60]!r}: {type(error).__name__}: {error}",
                "correct it and run the same command again; nothing is lost",
            ) from error
        if not math.isfinite(value):
            raise UsageError(
                f"reward {name!r} is {value} on {find.problem[:60]!r}", "return a finite number"
            )
        return value

    return reward
