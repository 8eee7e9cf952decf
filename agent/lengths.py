"""How long steps and texts may be, where nobody sets it: by the worked answers and the context.

The longest worked answer is no measure, since files have outliers, so it is the one that 98 of 100
do not exceed, and half as much again for a policy that writes more, at most half of the context.
Without worked answers usual lengths are taken; a text ends with the context in any case.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

USUAL_OPTION, USUAL_TEXT = 48, 256
LEAST_OPTION, LEAST_TEXT = 16, 32
MOST_OPTION, MOST_TEXT = 256, 2048
ENOUGH = 400
"""Worked answers that are looked at."""
QUANTILE = 0.98
ROOM = 1.5


@dataclass(frozen=True, slots=True)
class Lengths:
    option_tokens: int
    """Longest option."""
    text_tokens: int
    """Longest completion."""
    reason: str
    """Where they come from."""
    usual_text: int = 0
    """Tokens of a worked answer, on average; 0 where there are none."""


def lengths(
    worked: Sequence[str],
    count: Callable[[str], int],
    max_positions: int,
    option_tokens: int | None = None,
    text_tokens: int | None = None,
) -> Lengths:
    """The lengths in force. `count` says how many tokens a text has; set ones stay as they are."""
    shown = worked[:: max(1, len(worked) // ENOUGH)][:ENOUGH]
    if shown:
        texts = [count(text) for text in shown]
        usual = round(sum(texts) / len(texts))
        lines = [count(line) for text in shown for line in text.splitlines() if line.strip()]
        option = _within(ROOM * _quantile(lines), LEAST_OPTION, MOST_OPTION)
        text = _within(ROOM * _quantile(texts), LEAST_TEXT, MOST_TEXT)
        reason = f"by {len(shown)} worked answers"
        longest = max(LEAST_TEXT, max_positions // 2)
        if text > longest:
            text, reason = longest, f"half of the context of {max_positions}"
        option = min(option, text)
    else:
        option, text, reason = USUAL_OPTION, USUAL_TEXT, "usual: there are no worked answers"
        usual = 0
    if option_tokens is not None and text_tokens is not None:
        reason = "set"
    text = text_tokens or text
    return Lengths(option_tokens or min(option, text), text, reason, usual)


def _quantile(values: Sequence[int]) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))]) if ordered else 0.0


def _within(value: float, least: int, most: int) -> int:
    """Rounded up to a multiple of eight, so that a row more in the file changes nothing."""
    return max(least, min(most, 8 * -(-int(value) // 8)))
