"""Whether two sides of an equation have one value, as far as their digits say.

A rounded number is judged to the digits that it shows, a percent sign as a share or as points, and
what can be read in two ways is neither true nor false.
"""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product

from critics.calculator import CalculatorError, Value, evaluated

Side = Sequence[Fraction | str]
"""Tokens of the calculator."""
MAX_ROUNDED = 4
"""Rounded numbers of a side that are moved by half a digit."""


def sides_agree(left: Side, right: Side) -> bool | None:
    """Whether two sides have one value; None for what claims nothing, is rounded, or would hold
    with its percent signs read as points."""
    if not computes(left) and not computes(right):
        return None
    holds = _agree(left, right)
    if holds is False and "%" in (*left, *right):
        points = [tuple(t for t in side if t != "%") for side in (left, right)]
        percents = [side.count("%") for side in (left, right)]
        is_lone = any(
            n == 0 and not computes(s) for n, s in zip(percents, (left, right), strict=True)
        )
        # A bare number beside a sum of percent names what is a hundred percent.
        if is_lone and any(_only_percent(side) for side in (left, right)):
            return None
        return None if _agree(*points) is not False else False
    return holds


def _only_percent(side: Side) -> bool:
    return side.count("%") == sum(isinstance(t, Fraction) for t in side)


def _agree(left: Side, right: Side) -> bool | None:
    ours, theirs = values_of(left), values_of(right)
    if not ours or not theirs:
        return None
    if ours[0].number == theirs[0].number:
        return True
    if any(a.number == b.number for a in ours for b in theirs):
        # As points, which a product with a hundred makes: (20/50) * 100 = 40 %.
        return True if Fraction(100) in (*left, *right) and "*" in (*left, *right) else None
    if any(v.is_ambiguous for v in (*ours, *theirs)) or _adds_percent(left) or _adds_percent(right):
        return None
    return None if _is_rounded(ours, right, left) or _is_rounded(theirs, left, right) else False


def is_near(left: Side, right: Side) -> bool:
    """Whether the sides agree within what their numbers of two and more decimals leave open."""
    spans = [_span(left), _span(right)]
    return None not in spans and spans[0][0] <= spans[1][1] and spans[1][0] <= spans[0][1]  # type: ignore[index]


def _span(side: Side) -> tuple[Fraction, Fraction] | None:
    """Least and greatest value of a side whose rounded numbers lie half a last digit off."""
    rounded = [i for i, t in enumerate(side) if isinstance(t, Fraction) and _places(t) >= 2]
    values: list[Fraction] = []
    for signs in product((-1, 1), repeat=min(len(rounded), MAX_ROUNDED)):
        moved = list(side)
        for i, sign in zip(rounded, signs, strict=False):
            value = side[i]
            assert isinstance(value, Fraction)
            moved[i] = value + sign * Fraction(1, 2 * 10 ** _places(value))
        try:
            values.append(evaluated(moved).number)
        except CalculatorError:
            return None
    if not computes(side) and len(rounded) == 0:
        half = (
            Fraction(1, 2 * 10 ** max(_places(v) for v in values))
            if values[0].denominator > 1
            else 0
        )
        return min(values) - half, max(values) + half
    return min(values), max(values)


def computes(side: Side) -> bool:
    """Whether a side is more than one number with a sign."""
    rest = side[1:] if side and side[0] in ("-", "+") else side
    return any(isinstance(t, str) for t in rest)


def values_of(side: Side) -> list[Value]:
    """All readings of a side: a lone number of percent is a share, or so many points."""
    try:
        found = [evaluated(side)]
    except CalculatorError:
        return []
    if side[-1] == "%" and sum(isinstance(t, Fraction) for t in side) == 1:
        found.append(Value(found[0].number * 100, False))
    return found


def _adds_percent(side: Side) -> bool:
    """`50 + 20 %` is 60 for some."""
    if "%" not in side or not ("+" in side or "-" in side):
        return False
    percents = sum(t == "%" for t in side)
    return percents < sum(isinstance(t, Fraction) for t in side)


def _is_rounded(exact: Sequence[Value], rounded: Side, other: Side) -> bool:
    """Whether a lone number stands for a value that needs more digits than it shows."""
    digits = [t for t in rounded if isinstance(t, Fraction)]
    if len(digits) != 1 or any(t not in ("-", "+", "%") for t in rounded if isinstance(t, str)):
        return False
    shown = values_of(rounded)
    places = _places(digits[0]) + (2 if "%" in rounded else 0)
    unit = Fraction(1, 10**places)
    for value in exact:
        if (value.number / unit).denominator == 1:
            continue
        gap = min(abs(value.number - s.number) for s in shown)
        # A division may have been cut off, or rounded up to whole things.
        if gap <= unit / 2 or (gap < unit and ("/" in other or places == 0)):
            return True
    return False


def _places(value: Fraction) -> int:
    """Decimals that a number was written with, at most."""
    places = 0
    while value.denominator != 1 and places < 12:
        value *= 10
        places += 1
    return places
