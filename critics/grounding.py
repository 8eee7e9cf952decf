"""How a worked answer stands to the question's numbers.

A model that takes the wrong operation on the right numbers writes equations that hold, so no
calculator refutes it. What betrays such an answer more often than its probability does is what it
leaves out: a number of the question that no step uses, a number that comes from nowhere, an
equation that holds only if somebody rounded (LOG.md has what each is worth).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from critics.claims import claims

MOST = 3
"""From how many on it makes no difference."""
COUNTING = "one two three four five six seven eight nine ten eleven twelve"
NUMBER_WORDS = {
    **{word: number for number, word in enumerate(COUNTING.split(), 1)},
    **{"dozen": 12, "dozens": 12, "half": 2, "twice": 2, "double": 2, "pair": 2},
    **{"thrice": 3, "triple": 3, "third": 3, "quarter": 4, "week": 7, "year": 12},
    **{"hundred": 100, "thousand": 1000, "percent": 100, "cents": 100, "hour": 60, "minute": 60},
}
"""Numbers that a question may hold without a digit."""
ALWAYS_KNOWN = frozenset((1.0, 100.0))

_NUMBER = re.compile(r"\d+(?:,\d{3})+(?:\.\d+)?|\d*\.\d+|\d+")
_WORD = re.compile(r"[a-z]+")
_ANSWER = "####"


@dataclass(frozen=True, slots=True)
class Grounding:
    num_unused: int
    """Different numbers of the question that no step uses."""
    num_unknown: int
    """Numbers of steps that are neither the question's nor an earlier result."""
    num_inexact: int
    """Equations that are not shown to hold as they stand."""

    @property
    def doubts(self) -> tuple[float, float, float]:
        """What speaks against the answer, each from 0 to 1."""
        counts = (self.num_unused, self.num_unknown, self.num_inexact)
        unused, unknown, inexact = (min(count, MOST) / MOST for count in counts)
        return unused, unknown, inexact


def grounding(question: str, steps: Sequence[str]) -> Grounding:
    """Of an answer's steps; one that only says the answer (`####`) is left aside.

    >>> grounding("Tom had 8 pens, gave 3 away and lost 2.", ["8 - 3 = 5\\n", "#### 5"])
    Grounding(num_unused=1, num_unknown=0, num_inexact=0)
    >>> grounding("How many of 6048 lambs are black, if 193 are white?", ["193 - 192 = 1\\n"])
    Grounding(num_unused=1, num_unknown=1, num_inexact=0)
    """
    asked = set(_numbers(question))
    words = (NUMBER_WORDS.get(word) for word in _WORD.findall(question.lower()))
    known = asked | {float(number) for number in words if number} | ALWAYS_KNOWN
    used: set[float] = set()
    unknown = inexact = 0
    for step in steps:
        if _ANSWER in step:
            continue
        first, *others = step.split("=")
        sides = [_numbers(first), *map(_numbers, others)]
        for place, numbers in enumerate(sides):
            if place:  # what the side before comes to
                known.update(numbers[:1])
            if place == 0 or place < len(sides) - 1:
                used.update(numbers)
                unknown += sum(number not in known for number in numbers)
            known.update(numbers)
        inexact += sum(claim.holds is not True for claim in claims(step))
    return Grounding(len(asked - used), unknown, inexact)


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]
