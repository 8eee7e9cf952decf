"""A worked problem of words with other numbers in it, worked in the same way.

Where each step is an equation of the question's numbers and of earlier results, the text is a
program: with other numbers in the question it comes to another answer, and the way there stays
right if it was right before. One text that may be trusted gives many that differ in just what a
model must not learn by heart (so GSM-Symbolic varies its problems, Mirzadeh et al., arXiv
2410.05229; there the programs are written by people).

A number that may stand for two things stays as it is: one that the question also says in words, as
an ordinal, in percent, in a fraction, a date or a time, and one that the steps work with more often
than the question says it (`7 miles a day for 4 weeks`, `7 * 7`).
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise

from critics.calculator import CalculatorError, calculate
from critics.grounding import NUMBER_WORDS

TRIES = 40
"""Draws of numbers, before it is given up that results stay positive and whole."""
SMALL = 12
"""Up to which numbers are drawn from one range; larger ones from half to twice themselves."""
CONSTANT = frozenset(map(Fraction, (0, 1, 100)))
"""Numbers that stand for more than a count."""
MOST, MOST_RESULT = 10**9, 10**12
"""Largest number of a question, and largest result."""
LONGEST = 400
"""Characters of a step."""
MOST_PLACES = 2
"""Decimal places of a result that a text may say."""

_DIGITS = r"(?>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
_NUMBER = re.compile(rf"(?<![\w.]){_DIGITS}(?![.,]?\d)(?!\w)")
_ANY = re.compile(_DIGITS)
_ARITHMETIC = re.compile(r"[-+*/×÷().,$\d\s]+$")
_SPECIAL = re.compile(
    r"\s*(?:%|percent|per cent)|-?[a-z]|\s*[/:]"
    r"|\s+(?:seconds|minutes|hours|days|weeks|months|inches|feet|ounces|cents)"
    r" in (?:a|an|one|each)\b",
    re.IGNORECASE,
)
"""What makes a number before it more than a count of its own."""
_WORD = re.compile(r"[a-z]+")
_ANSWER = "####"
_TEENS = "thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
WORDS = (
    NUMBER_WORDS
    | {word: number for number, word in enumerate(_TEENS.split(), 13)}
    | {word: 10 * number for number, word in enumerate(_TENS.split(), 2)}
)

Numbers = Mapping[Fraction, Fraction]
"""Old to new."""


def renumbered(
    question: str, steps: Sequence[str], rng: random.Random
) -> tuple[str, tuple[str, ...]] | None:
    """(question, steps) with other whole numbers in them; None where the steps cannot be read so.

    >>> renumbered("Tom had 8 pens and gave 3 away.", ["8 - 3 = 5\\n", "#### 5"], random.Random(2))
    ('Tom had 11 pens and gave 5 away.', ('11 - 5 = 6\\n', '#### 6'))
    """
    said = [_value(match[0]) for match in _NUMBER.finditer(question)]
    asked = list(dict.fromkeys(said))
    if any(number > MOST for number in asked) or any(len(step) > LONGEST for step in steps):
        return None
    worked = _worked_with(steps)
    if not worked or _worked(steps, {number: number for number in asked}) != tuple(steps):
        return None  # nothing is kept of what is not understood
    often = {n for n, num in worked.items() if num > Counter(said)[n]}
    fixed = CONSTANT | often | _in_words(" ".join((question, *steps))) | _special(question)
    free = [n for n in asked if n not in fixed and n.denominator == 1]
    if not free:
        return None
    for _ in range(TRIES):
        new = {n: _other(n, rng) if n in free else n for n in asked}
        if len(set(new.values())) < len(new) or all(new[n] == n for n in free):
            continue
        found = _worked(steps, new)
        if found is not None:
            return _replaced(question, new), found
    return None


def _value(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _worked_with(steps: Sequence[str]) -> Counter[Fraction] | None:
    """How often the left sides of equations have each number; None where one has it twice, for
    these may be two different things."""
    found: Counter[Fraction] = Counter()
    for step in steps:
        for part in step.split("=")[:-1]:
            run = _ARITHMETIC.search(part)
            numbers = [_value(text) for text in _ANY.findall(run[0])] if run else []
            if len(set(numbers)) < len(numbers):
                return None
            found.update(numbers)
    return found


def _in_words(text: str) -> frozenset[Fraction]:
    """Numbers that words stand for, `twenty-five` for three of them."""
    values = [
        WORDS.get(word) or WORDS.get(word.removesuffix("s")) for word in _WORD.findall(text.lower())
    ]
    sums = [
        tens + ones
        for tens, ones in pairwise(values)
        if tens and ones and tens % 10 == 0 and ones < 10
    ]
    return frozenset(Fraction(value) for value in (*values, *sums) if value)


def _special(question: str) -> frozenset[Fraction]:
    """Numbers that stand somewhere in a form that is more than a count: `20%`, `3rd`, `1/2`."""
    found = []
    for match in _ANY.finditer(question):
        before = question[: match.start()]
        if _SPECIAL.match(question, match.end()) or before.rstrip()[-1:] in ("/", ":"):
            found.append(_value(match[0]))
    return frozenset(found)


def _other(number: Fraction, rng: random.Random) -> Fraction:
    if number <= SMALL:
        return Fraction(rng.randint(2, SMALL))
    return Fraction(rng.randint(int(number) // 2 + 1, 2 * int(number)))


def _written(number: Fraction, like: str) -> str | None:
    """As a decimal number, with thousands commas where the old one had them; None for one that is
    not positive, too large, or has too many places."""
    hundredths = number * 10**MOST_PLACES
    if not 0 < number <= MOST_RESULT or hundredths.denominator != 1:
        return None
    whole, rest = divmod(int(hundredths), 10**MOST_PLACES)
    text = f"{whole:,}" if "," in like else str(whole)
    return f"{text}.{rest:0{MOST_PLACES}d}".rstrip("0") if rest else text


def _replaced(text: str, new: Numbers) -> str:
    def other(match: re.Match[str]) -> str:
        old = _value(match[0])
        return match[0] if new[old] == old else _written(new[old], match[0]) or match[0]

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
    numbers = [_value(match[0]) for match in _NUMBER.finditer(step.partition(_ANSWER)[2])]
    return len(numbers) == 1 and numbers[0] in results


def _step(step: str, new: dict[Fraction, Fraction], results: set[Fraction]) -> str | None:
    """A step with other numbers; its results are added to both."""
    said, before, end = "", "", 0
    for match in _NUMBER.finditer(step):
        between = step[end : match.start()]
        said, before = said + between, before + between
        old = _value(match[0])
        if "=" in between:
            if between.strip(" $") != "=" or not _put(_left(said), _left(before), old, new):
                return None  # two things that one number stood for are two numbers now
            results.add(old)
        now = new.get(old, old)
        text = match[0] if now == old else _written(now, match[0])
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
    value: Fraction | None, before: Fraction | None, old: Fraction, new: dict[Fraction, Fraction]
) -> bool:
    """Note what a result has become; False where the old one was another, or it cannot be."""
    if value is None or before != old or new.get(old, value) != value:
        return False
    is_of_one_kind = (value.denominator == 1) >= (old.denominator == 1)
    new[old] = value
    return value > 0 and is_of_one_kind
