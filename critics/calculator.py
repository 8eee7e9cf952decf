"""A calculator with its own exact grammar; text is parsed, never evaluated as code.

    sum     = product (("+" | "-") product)*
    product = factor (("*" | "/" | "×" | "÷") factor)*
    factor  = ("-" | "+") factor | number | "(" sum ")"
    number  = digits with optional thousands commas and decimal part, optional "%"

Values are exact fractions. Length, nesting and the size of numbers are bounded, so no input takes
longer than a millisecond or so.
"""

import re
from fractions import Fraction

MAX_LENGTH = 400
MAX_DEPTH = 40
MAX_BITS = 512

_TOKEN = re.compile(r"\s*(?:(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(%?)|([-+*/×÷()]))")
_PRODUCT = {"*": "*", "×": "*", "/": "/", "÷": "/"}


class CalculatorError(ValueError):
    """The text is not an expression of the grammar, or breaks a bound."""


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise CalculatorError(f"longer than {MAX_LENGTH} characters")
        self.tokens: list[Fraction | str] = []
        self.place = 0
        end = 0
        text = text.strip()
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise CalculatorError(f"unexpected {text[end]!r}")
            end = match.end()
            number, percent, symbol = match.groups()
            if number is None:
                self.tokens.append(symbol)
                continue
            value = Fraction(number.replace(",", ""))
            self.tokens.append(value / 100 if percent else value)

    def peek(self) -> Fraction | str | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

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
        value = self.factor(depth)
        while (symbol := self.peek()) in _PRODUCT:
            self.next()
            right = self.factor(depth)
            if _PRODUCT[str(symbol)] == "*":
                value = _bounded(value * right)
            elif right == 0:
                raise CalculatorError("division by zero")
            else:
                value = _bounded(value / right)
        return value

    def factor(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise CalculatorError(f"nested deeper than {MAX_DEPTH}")
        token = self.next()
        if isinstance(token, Fraction):
            return _bounded(token)
        if token == "-":
            return -self.factor(depth + 1)
        if token == "+":
            return self.factor(depth + 1)
        if token == "(":
            value = self.sum(depth + 1)
            if self.next() != ")":
                raise CalculatorError("a bracket is not closed")
            return value
        raise CalculatorError("a number is missing" if token is None else f"unexpected {token!r}")


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise CalculatorError(f"a value needs more than {MAX_BITS} bits")
    return value


def calculate(text: str) -> Fraction:
    """Exact value of an arithmetic expression. Raises CalculatorError."""
    parser = _Parser(text)
    value = parser.sum(0)
    if parser.peek() is not None:
        raise CalculatorError(f"unexpected {parser.peek()!r}")
    return value


def equation_holds(text: str) -> bool | None:
    """Whether `left = right` is true; None when the text is no equation of two expressions."""
    left, equals, right = text.partition("=")
    if not equals or "=" in right:
        return None
    try:
        return calculate(left) == calculate(right)
    except CalculatorError:
        return None
