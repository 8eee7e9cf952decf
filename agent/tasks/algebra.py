r"""Whether an equation of algebra holds, by sympy, in a process that may be killed.

    equation = sum "=" sum
    sum      = product (("+" | "-") product)*
    product  = power (("*" | "/") power)*            2x, 3(x + 1) multiply too
    power    = factor ("^" power)?
    factor   = ("-" | "+") factor | number | letter | "pi" | function "(" sum ")" | "(" sum ")"

Text is parsed by this grammar and built from sympy's constructors; nothing is evaluated as code.
LaTeX's \frac, \sqrt, \cdot, \times, ^{} and \left \right are put into the grammar's form first.
"""

import re
from typing import Any

from agent.tasks.killable import Killable

MAX_LENGTH = 300
MAX_DEPTH = 40
MAX_EXPONENT = 200
FUNCTIONS = ("sqrt", "sin", "cos", "tan", "log", "ln", "exp", "abs")

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|([A-Za-z]+)|([-+*/^()]))")
_REWRITES = (
    (re.compile(r"\\left|\\right|\\,|\\!|\\;|\$"), ""),
    (re.compile(r"\\(?:d|t)?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"\^\{([^{}]*)\}"), r"^(\1)"),
    (re.compile(r"\\cdot|\\times|×"), "*"),
    (re.compile(r"÷"), "/"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\(pi|sin|cos|tan|log|ln|exp)\b"), r"\1"),
)


class AlgebraError(ValueError):
    """The text is not an expression of the grammar, or breaks a bound."""


def plain(text: str) -> str:
    """LaTeX in the grammar's form, as far as the rewrites above go."""
    for _ in range(4):  # fractions inside fractions
        before = text
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    return text.strip()


class _Parser:
    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise AlgebraError(f"longer than {MAX_LENGTH} characters")
        self.tokens: list[str] = []
        end = 0
        while end < len(text):
            match = _TOKEN.match(text, end)
            if match is None:
                raise AlgebraError(f"unexpected {text[end]!r}")
            end = match.end()
            self.tokens.append(match[1] or match[2] or match[3])
        self.place = 0

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def next(self) -> str:
        self.place += 1
        return self.tokens[self.place - 1] if self.place <= len(self.tokens) else ""

    def sum(self, depth: int) -> Any:
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign, right = self.next(), self.product(depth)
            value = value + right if sign == "+" else value - right
        return value

    def product(self, depth: int) -> Any:
        value = self.power(depth)
        while (token := self.peek()) and token not in ("+", "-", ")", "^"):
            if token in ("*", "/"):
                self.next()
            right = self.power(depth)
            value = value / right if token == "/" else value * right
        return value

    def power(self, depth: int) -> Any:
        import sympy

        base = self.factor(depth)
        if self.peek() != "^":
            return base
        self.next()
        exponent = self.power(depth + 1)
        if exponent.is_number and abs(float(exponent)) > MAX_EXPONENT:
            raise AlgebraError(f"an exponent beyond {MAX_EXPONENT}")
        return sympy.Pow(base, exponent)

    def factor(self, depth: int) -> Any:
        import sympy

        if depth > MAX_DEPTH:
            raise AlgebraError(f"nested deeper than {MAX_DEPTH}")
        token = self.next()
        if token in ("-", "+"):
            value = self.factor(depth + 1)
            return -value if token == "-" else value
        if token == "(":
            return self.closed(depth)
        if token and (token[0].isdigit() or token[0] == "."):
            return sympy.Rational(token)
        if token == "pi":
            return sympy.pi
        if token in FUNCTIONS:
            if self.next() != "(":
                raise AlgebraError(f"{token} needs brackets")
            function = {"ln": sympy.log, "abs": sympy.Abs}.get(token) or getattr(sympy, token)
            return function(self.closed(depth))
        if len(token) == 1 and token.isalpha():
            return sympy.Symbol(token)
        raise AlgebraError(f"unexpected {token!r}")

    def closed(self, depth: int) -> Any:
        value = self.sum(depth + 1)
        if self.next() != ")":
            raise AlgebraError("a bracket is not closed")
        return value


def parsed(text: str) -> Any:
    """The sympy expression of a text. Raises AlgebraError."""
    parser = _Parser(plain(text))
    value = parser.sum(0)
    if parser.peek():
        raise AlgebraError(f"unexpected {parser.peek()!r}")
    return value


def holds(text: str) -> bool | None:
    """Whether `left = right` is true for every value of its letters.

    None when it is no equation of this grammar, or one with letters that is true for some values
    only: that is a condition, not a claim.
    """
    import sympy

    left, equals, right = text.partition("=")
    if not equals or "=" in right:
        return None
    try:
        difference = sympy.simplify(parsed(left) - parsed(right))
    except AlgebraError:
        return None
    if difference == 0:
        return True
    if difference.free_symbols or difference.is_number is not True:
        return None
    return bool(abs(complex(difference.evalf(30))) < 1e-12)


class Algebra:
    """`holds`, asked in a child process; what takes too long is not known."""

    def __init__(self) -> None:
        self.process = Killable(holds)

    def equation_holds(self, text: str) -> bool | None:
        found: bool | None = self.process.ask(text)
        return found

    def close(self) -> None:
        self.process.close()
