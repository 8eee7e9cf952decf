"""The reward that goes with `ratchet store export rl`, in the form that verl calls.

    custom_reward_function.path=.../critics/reward.py custom_reward_function.name=compute_score

It compares final answers as a round does; nothing is evaluated as code.
"""

import contextlib
from typing import Any

from critics.answer import final_answer
from critics.equality import same_answer


def compute_score(data_source, solution_str, ground_truth, extra_info=None) -> float

`--set selection.reward=FILE.py:compute_score` keeps texts by it; this file's own `compute_score` is
the reward that goes with `ratchet store export rl`
(verl: `custom_reward_function.path=.../agent/tasks/rewards.py`).
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any

from agent.tasks.registry import attribute_of
from critics.answer import final_answer
from critics.equality import same_answer
from search.errors import UsageError
from store.selection import Find

Reward = Callable[..., Any]


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
) -> float:
    """1 for a text whose final answer is right, else 0. Mathematics beyond numbers and lists is
    compared by math-verify, where it is installed."""
    found = final_answer(solution_str)
    if found is None:
        return 0.0
    rule = (extra_info or {}).get("answers", "auto")
    return float(same_answer(found, str(ground_truth), rule, _is_equal))


def _is_equal(left: str, right: str) -> bool:
    with contextlib.suppress(Exception):  # of a parser that is given anything
        from math_verify import parse, verify

        return bool(verify(parse(f"${right}$"), parse(f"${left}$")))
    return False
