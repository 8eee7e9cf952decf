"""A calculator with its own exact grammar; text is parsed, never evaluated as code.

    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/" | "×" | "÷") signed | power)*     2(3) and (2)(3) multiply too
    signed  = ("-" | "+") signed | power
    power   = factor (("^" | "**") signed)?                        -3^2 is -(3^2)
    factor  = number "%"? | whole fraction | "sqrt"? "(" sum ")"   3 1/2 is a mixed number
    number  = digits with optional thousands commas and decimal part

Values are exact fractions. Length, nesting and the size of numbers are bounded, so no input takes
longer than a millisecond or so.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

MAX_LENGTH = 400
MAX_DEPTH = 40
MAX_BITS = 512
MAX_EXPONENT = 64

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d+(?:\.\d+)?|\.\d+"
_TOKEN = re.compile(rf"\s*(?:({NUMBER})|(\*\*|[-+*/×÷^()%]|sqrt(?=\())|(\S))")
_SYMBOLS = {"×": "*", "÷": "/", "**": "^"}


class CalculatorError(ValueError):
    """The text is not an expression of the grammar, or breaks a bound."""


@dataclass(frozen=True, slots=True)
class Value:
    """What an expression comes to."""

    number: Fraction
    is_ambiguous: bool
    """Whether it has a product without a sign behind a division: 6/2(3) is read in two ways."""


class _Parser:
    def __init__(self, tokens: Sequence[Fraction | str]) -> None:
        self.tokens = tokens
        self.place = 0
        self.is_ambiguous = False

    def peek(self, ahead: int = 0) -> Fraction | str | None:
        place = self.place + ahead
        return self.tokens[place] if place < len(self.tokens) else None

    def next(self) -> Fraction | str | None:
        token = self.peek()
        self.place += 1
        return token

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = self.next()
            right = self.product(depth)
            value = _bounded(value + right if sign == "+" else value - right)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        has_divided = False
        while (symbol := self.peek()) is not None:
            if symbol in ("*", "/"):
                self.next()
                right = self.signed(depth)
                has_divided = has_divided or symbol == "/"
            elif symbol in ("(", "sqrt") or (
                isinstance(symbol, Fraction) and self.tokens[self.place - 1] == ")"
            ):
                self.is_ambiguous = self.is_ambiguous or has_divided
                right = self.power(depth)
            else:
                break
            if symbol != "/":
                value = _bounded(value * right)
            elif right == 0:
                raise CalculatorError("division by zero")
            else:
                value = _bounded(value / right)
        return value

    def signed(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise CalculatorError(f"nested deeper than {MAX_DEPTH}")
        if self.peek() in ("-", "+"):
            sign = self.next()
            value = self.signed(depth + 1)
            return -value if sign == "-" else value
        return self.power(depth)

    def power(self, depth: int) -> Fraction:
        base = self.factor(depth)
        if self.peek() != "^":
            return base
        self.next()
        return _power(base, self.signed(depth + 1))

    def factor(self, depth: int) -> Fraction:
        token = self.next()
        if isinstance(token, Fraction):
            if self.peek() == "%":
                self.next()
                return _bounded(token / 100)
            return _bounded(token + self.part(token))
        if token == "sqrt":
            return _root(self.factor(depth + 1))
        if token == "(":
            value = self.sum(depth + 1)
            if self.next() != ")":
                raise CalculatorError("a bracket is not closed")
            return value
        raise CalculatorError("a number is missing" if token is None else f"unexpected {token!r}")

    def part(self, whole: Fraction) -> Fraction:
        """The fraction of a mixed number that began with `whole`; 0 where none follows."""
        top, bar, bottom = self.peek(), self.peek(1), self.peek(2)
        if not isinstance(top, Fraction):
            return Fraction(0)
        is_mixed = isinstance(bottom, Fraction) and bar == "/" and 0 < top < bottom
        if not is_mixed or {whole.denominator, top.denominator, bottom.denominator} != {1}:  # type: ignore[union-attr]
            raise CalculatorError("two numbers without a sign between them")
        self.place += 3
        return top / bottom  # type: ignore[operator]


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent == Fraction(1, 2):
        return _root(base)
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT or (base == 0 and exponent < 0):
        raise CalculatorError(f"{exponent} is no exponent of {base} here")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise CalculatorError(f"a value needs more than {MAX_BITS} bits")
    return Fraction(base ** int(exponent))


def _root(value: Fraction) -> Fraction:
    if value < 0:
        raise CalculatorError("the root of a negative number")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top != value.numerator or bottom * bottom != value.denominator:
        raise CalculatorError(f"the root of {value} is no fraction")
    return Fraction(top, bottom)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise CalculatorError(f"a value needs more than {MAX_BITS} bits")
    return value


def number(text: str) -> Fraction:
    """The value of digits with thousands commas."""
    if len(text) > MAX_LENGTH:
        raise CalculatorError(f"longer than {MAX_LENGTH} characters")
    return Fraction(text.replace(",", ""))


def evaluated(tokens: Sequence[Fraction | str]) -> Value:
    """Exact value of an expression in tokens: numbers, `+ - * / ^ ( ) %` and `sqrt`.

    Raises CalculatorError.
    """
    if len(tokens) > MAX_LENGTH:
        raise CalculatorError(f"longer than {MAX_LENGTH} tokens")
    parser = _Parser(tokens)
    value = parser.sum(0)
    if parser.peek() is not None:
        raise CalculatorError(f"unexpected {parser.peek()!r}")
    return Value(value, parser.is_ambiguous)


def calculate(text: str) -> Fraction:
    """Exact value of an arithmetic expression. Raises CalculatorError."""
    if len(text) > MAX_LENGTH:
        raise CalculatorError(f"longer than {MAX_LENGTH} characters")
    tokens: list[Fraction | str] = []
    for digits, symbol, other in _TOKEN.findall(text.strip()):
        if other:
            raise CalculatorError(f"unexpected {other!r}")
        tokens.append(number(digits) if digits else _SYMBOLS.get(symbol, symbol))
    return evaluated(tokens).number


def equation_holds(text: str) -> bool | None:
    """Whether `left = right` is true; None when the text is no equation of two expressions."""
    left, equals, right = text.partition("=")
    if not equals or "=" in right:
        return None
    try:
        return calculate(left) == calculate(right)
    except CalculatorError:
        return None
