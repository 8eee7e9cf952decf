"""The reward that goes with `ratchet store export rl`, in the form that verl calls.

    custom_reward_function.path=.../critics/reward.py custom_reward_function.name=compute_score

It compares final answers as a round does; nothing is evaluated as code.
"""

import contextlib
from typing import Any

from critics.answer import final_answer
from critics.equality import same_answer


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
) -> float:
    """1 for a text whose final answer is right, else 0.

    `extra_info["answers"]` is the rule of equality, `auto` without one. Mathematics beyond numbers
    and lists is compared by math-verify.
    """
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
