"""A worked problem of words with other numbers in it, worked in the same way.

Where each step is an equation of the question's numbers and of earlier results, the text is a
program: with other numbers in the question it comes to another answer, and the way there stays
right if it was right before. One text that may be trusted gives many that differ in just what a
model must not learn by heart (so GSM-Symbolic varies its problems, Mirzadeh et al., arXiv
2410.05229; there the programs are written by people).
"""

import random
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from critics.calculator import NUMBER, CalculatorError, calculate
from critics.grounding import NUMBER_WORDS

TRIES = 40
"""Draws of numbers, before it is given up that results stay positive and whole."""
SMALL = 12
"""Up to which numbers are drawn from one range; larger ones from half to twice themselves."""
CONSTANT = frozenset(map(Fraction, (0, 1, 100)))
"""Numbers that stand for more than a count."""
MOST = 10**9
"""Largest number of a question."""
MOST_PLACES = 2
"""Decimal places of a result that a text may say."""

_NUMBER = re.compile(rf"(?<![\w.])(?:{NUMBER})(?!\w)(?!\s*%)")
_ARITHMETIC = re.compile(rf"(?:(?:{NUMBER})|[-+*/×÷()$\s])+$")
_WORD = re.compile(r"[a-z]+")
_ANSWER = "####"

Numbers = Mapping[Fraction, Fraction]
"""Old to new."""


def renumbered(
    question: str, steps: Sequence[str], rng: random.Random
) -> tuple[str, tuple[str, ...]] | None:
    """(question, steps) with other whole numbers in them; None where the steps cannot be read so.

    >>> renumbered("Tom had 8 pens and gave 3 away.", ["8 - 3 = 5\\n", "#### 5"], random.Random(2))
    ('Tom had 11 pens and gave 5 away.', ('11 - 5 = 6\\n', '#### 6'))
    """
    asked = list(dict.fromkeys(_value(match) for match in _NUMBER.finditer(question)))
    if any(number > MOST for number in asked):
        return None
    if _worked(steps, {number: number for number in asked}) != tuple(steps):
        return None  # nothing is kept of what is not understood
    fixed = CONSTANT | _in_words(" ".join((question, *steps)))
    for _ in range(TRIES):
        new = {number: number if number in fixed else _other(number, rng) for number in asked}
        if len(set(new.values())) < len(new) or new == dict(zip(asked, asked, strict=True)):
            continue
        found = _worked(steps, new)
        if found is not None:
            return _replaced(question, new), found
    return None


def _value(match: re.Match[str]) -> Fraction:
    return Fraction(match[0].replace(",", ""))


def _in_words(text: str) -> frozenset[Fraction]:
    """Numbers that words stand for: nobody knows whether a digit means what the word does."""
    words = (NUMBER_WORDS.get(word) for word in _WORD.findall(text.lower()))
    return frozenset(Fraction(number) for number in words if number)


def _other(number: Fraction, rng: random.Random) -> Fraction:
    if number.denominator != 1:
        return number
    if number <= SMALL:
        return Fraction(rng.randint(2, SMALL))
    return Fraction(rng.randint(int(number) // 2 + 1, 2 * int(number)))


def _written(number: Fraction, like: str) -> str | None:
    """As a decimal number, with thousands commas where the old one had them; None for one that is
    not positive or has too many places."""
    if number <= 0 or number * 10**MOST_PLACES % 1:
        return None
    text = f"{float(number):,.{MOST_PLACES}f}".rstrip("0").rstrip(".")
    return text if "," in like else text.replace(",", "")


def _replaced(text: str, new: Numbers) -> str:
    def other(match: re.Match[str]) -> str:
        return _written(new[_value(match)], match[0]) or match[0]

    return _NUMBER.sub(other, text)


def _worked(steps: Sequence[str], given: Numbers) -> tuple[str, ...] | None:
    """The steps with the given numbers in place of the question's, results worked out anew.

    None where a number stands for two things, where a result is of another kind than it was, and
    where the answer is none of the results.
    """
    new = dict(given)
    results: set[Fraction] = set()
    found: list[str] = []
    for step in steps:
        made = _step(step, new, results)
        if made is None or (_ANSWER in step and not _answers(step, results)):
            return None
        found.append(made)
    return tuple(found)


def _answers(step: str, results: set[Fraction]) -> bool:
    numbers = [_value(m) for m in _NUMBER.finditer(step.partition(_ANSWER)[2])]
    return len(numbers) == 1 and numbers[0] in results


def _step(step: str, new: dict[Fraction, Fraction], results: set[Fraction]) -> str | None:
    """A step with other numbers; its results are added to both."""
    said, before, end = "", "", 0
    for match in _NUMBER.finditer(step):
        between = step[end : match.start()]
        said, before = said + between, before + between
        old = _value(match)
        if "=" in between:
            if between.strip(" $") != "=" or not _put(_left(said), _left(before), old, new):
                return None  # two things that one number stood for are two numbers now
            results.add(old)
        text = _written(new.get(old, old), match[0])
        if text is None:
            return None
        said, before, end = said + text, before + match[0], match.end()
    return said + step[end:] if "=" not in step[end:] else None


def _left(text: str) -> Fraction | None:
    """What the arithmetic right before the last equals sign comes to."""
    side = text.rpartition("=")[0].rpartition("=")[2]
    run = _ARITHMETIC.search(side)
    try:
        return calculate(run[0].replace("$", "").strip()) if run else None
    except CalculatorError:
        return None


def _put(
    value: Fraction | None,
    value_before: Fraction | None,
    old: Fraction,
    new: dict[Fraction, Fraction],
) -> bool:
    """Note what a result has become; False where the old one was another, or it cannot be."""
    if value is None or value_before != old or new.get(old, value) != value:
        return False
    is_of_one_kind = (value.denominator == 1) >= (old.denominator == 1)
    new[old] = value
    return value > 0 and is_of_one_kind
