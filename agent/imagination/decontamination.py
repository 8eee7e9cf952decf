"""Whether a text gives away a held-out problem: by its key, or by word n-grams it shares.

Thirteen words in a row are the customary measure (Brown et al. 2020, appendix C); a held-out
problem shorter than that is compared whole. Words that many problems share, such as an instruction
repeated in each of them, give nothing away: they are not counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable

from search.state import Problem

N_GRAM = 13
COMMON_SHARE = 0.1
"""Share of the held-out problems from which an n-gram is no secret of any of them."""
COMMON_LEAST = 2
"""Held-out problems that may share an n-gram, at least, before it counts as common."""

_WORD = re.compile(r"\d+|[^\W\d_]+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words, numbers and signs in lower case."""
    return _WORD.findall(text.lower())


class Decontamination:
    """The n-grams and keys of held-out problems."""

    def __init__(self, held_out: Iterable[Problem], key: Callable[[str], str]) -> None:
        self.key = key
        self._keys: set[str] = set()
        self._whole: set[tuple[str, ...]] = set()
        shared: Counter[tuple[str, ...]] = Counter()
        for problem in held_out:
            self._keys.add(key(problem.text))
            found = words(problem.text)
            self._whole.add(tuple(found))
            shared.update(set(_grams(found)))
        most = max(COMMON_LEAST, COMMON_SHARE * len(self._keys))
        self._grams = {gram for gram, num in shared.items() if num <= most}
        self.num_common = len(shared) - len(self._grams)
        """N-grams that too many held-out problems share to count."""

    def leak(self, text: str) -> str:
        """Why the text may not be learned from: `key`, `n-gram`, or empty."""
        if self.key(text) in self._keys:
            return "key"
        found = words(text)
        if tuple(found) in self._whole or not self._grams.isdisjoint(_grams(found)):
            return "n-gram"
        return ""


def _grams(found: list[str]) -> Iterable[tuple[str, ...]]:
    return (tuple(found[i : i + N_GRAM]) for i in range(len(found) - N_GRAM + 1))
