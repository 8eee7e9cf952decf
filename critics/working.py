"""Arithmetic in writing: what a step claims as a question, and how one works it out by hand.

Every claim is asked by sums and products of numbers without signs, a difference and a quotient by
their inverse: `47 - 19 = 28` is asked as 19+28, claimed to be 47, `84 / 7 = 12` as 12*7. So whoever
answers does not repeat the way on which the claim was found. Reading a claim works nothing out:
that is for a model that writes (`agent/checker.py`), which learns from texts of `worked`.
"""

import re
from dataclasses import dataclass

MAX_DIGITS = 7
"""Of a number; longer ones are not asked."""
MAX_PRODUCTS = 9
"""Of two digits, in one product."""
NEVER = "-"
"""Claimed by a result of the wrong sign: no sum or product comes to it."""

_NUMBER = re.compile(r"([-+]?)(\d+)(?:\.(\d+))?")
_QUESTION = re.compile(r"(\d+)([+*])(\d+)")


@dataclass(frozen=True, slots=True)
class Question:
    """What a step claims, asked in a way that can be worked out in writing."""

    text: str
    """A sum or a product: `28+19`."""
    claimed: str
    """What it has to come to if the step is right: `47`."""


@dataclass(frozen=True, slots=True)
class _Number:
    """A decimal number as a whole one and how many of its digits stand behind the point."""

    is_negative: bool
    digits: int
    places: int

    def scaled(self, places: int) -> int:
        return self.digits * int(10 ** (places - self.places))


def question_of(left: str, operator: str, right: str, result: str) -> Question | None:
    """`left operator right = result` as a question; None where a part is no plain number, or too
    long to be worked out.

    >>> question_of("47", "-", "19", "28")
    Question(text='19+28', claimed='47')
    >>> question_of("7.5", "/", "3", "2.5")
    Question(text='25*3', claimed='75')
    """
    numbers = [_number(part) for part in (left, right, result)]
    if any(number is None for number in numbers):
        return None
    a, b, c = (number for number in numbers if number is not None)
    exact = a.places + b.places if operator in "*×x" else max(a.places, b.places)
    if operator not in "/÷" and c.places < exact:
        return None  # it may be rounded
    if operator in "+-":
        return _sum(a, b if operator == "+" else _negated(b), c)
    if operator in "*×x":
        return _product(a, b, c)
    if operator in "/÷":
        # More digits behind the point than the dividend has may be a rounded result.
        return _product(c, b, a) if b.digits and c.places <= a.places else None
    return None


def _number(text: str) -> _Number | None:
    match = _NUMBER.fullmatch(text.replace(",", "").replace("−", "-").strip())
    if match is None:
        return None
    behind = (match[3] or "").rstrip("0")
    whole = int(match[2] + behind)
    return _Number(match[1] == "-" and whole > 0, whole, len(behind))


def _negated(number: _Number) -> _Number:
    return _Number(not number.is_negative and number.digits > 0, number.digits, number.places)


def _sum(a: _Number, b: _Number, c: _Number) -> Question | None:
    """a + b = c with each number on the side where it needs no sign."""
    places = max(a.places, b.places, c.places)
    sides: tuple[list[int], list[int]] = ([], [])
    for number, side in ((a, 0), (b, 0), (c, 1)):
        sides[side ^ number.is_negative].append(number.scaled(places))
    two, one = sorted(sides, key=len, reverse=True)
    x, y = two[:2]
    if max(len(str(x)), len(str(y))) > MAX_DIGITS:
        return None
    # All three on one side come to nothing only if they are nothing, and then they have no sign.
    return Question(f"{x}+{y}", str(one[0]) if one else NEVER)


def _product(a: _Number, b: _Number, c: _Number) -> Question | None:
    x, y = a.digits, b.digits
    if len(str(x)) * len(str(y)) > MAX_PRODUCTS or max(len(str(x)), len(str(y))) > MAX_DIGITS:
        return None
    places = a.places + b.places
    if c.places > places:
        return None  # a rounded or an impossible result: nothing that a product says
    is_signed = (a.is_negative ^ b.is_negative) and x * y != 0
    claimed = str(c.scaled(places))
    return Question(f"{x}*{y}", claimed if c.is_negative == is_signed else NEVER)


def worked(question: str) -> str:
    """The question worked out digit by digit, what it comes to on the last line.

    >>> worked("28+19").split()
    ['8+9', '17', '2+1', '3', '3+1', '4', '47']
    """
    match = _QUESTION.fullmatch(question)
    if match is None:
        raise ValueError(f"{question[:40]!r} is no sum or product of two whole numbers")
    left, operator, right = match.groups()
    lines = _added(left, right) if operator == "+" else _multiplied(left, right)
    return "\n".join(lines)


def most_characters(question: str) -> int:
    """More than the question worked out takes."""
    left, operator, right = question.partition("+" if "+" in question else "*")
    width = max(len(left), len(right))
    if operator == "+":
        return 24 * width + 16
    return len(right) * len(left) * 24 + min(len(left), len(right)) * (60 * width + 40) + 16


def result_of(text: str) -> str:
    """What a worked text comes to, by its own word."""
    return text.rstrip("\n").rsplit("\n", 1)[-1].strip()


def _added(left: str, right: str) -> list[str]:
    width = max(len(left), len(right))
    lines: list[str] = []
    carry = 0
    for place, (a, b) in enumerate(zip(_digits(left, width), _digits(right, width), strict=True)):
        value = a + b
        lines += [f"{a}+{b}", str(value)]
        if place:
            lines += [f"{value}+{carry}", str(value + carry)]
        carry = (value + carry) // 10
    return [*lines, str(int(left) + int(right))]


def _multiplied(left: str, right: str) -> list[str]:
    """By the digits of the shorter number, last digit first; the parts are then added up."""
    if len(right) > len(left):
        left, right = right, left
    lines: list[str] = []
    total = 0
    for shift, d in enumerate(_digits(right, len(right))):
        carry = 0
        for place, a in enumerate(_digits(left, len(left))):
            value = a * d
            lines += [f"{a}*{d}", str(value)]
            if place:
                lines += [f"{value}+{carry}", str(value + carry)]
            carry = (value + carry) // 10
        part = int(left) * d * 10**shift
        lines.append(str(part))
        if shift:
            lines += [f"{total}+{part}", *_added(str(total), str(part))]
        total += part
    return lines


def _digits(number: str, width: int) -> list[int]:
    """Of a whole number, the last one first."""
    return [int(digit) for digit in reversed(number.rjust(width, "0"))]
