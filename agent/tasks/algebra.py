r"""Whether two sides of a formula are equal, by sympy, in a process that may be killed.

    sum      = product (("+" | "-") product)*
    product  = signed (("*" | "/") signed | power)*        2x and 3(x + 1) multiply too
    signed   = ("-" | "+") signed | power
    power    = factor ("^" signed)?                         -3^2 is -(3^2)
    factor   = number | whole fraction | letter | "pi" | function "(" sum ")" | "(" sum ")"

Text is parsed by this grammar and built from sympy's constructors; nothing is evaluated as code.
LaTeX's \frac, \sqrt, \cdot, \times, ^{} and \left \right are put into the grammar's form first. A
letter directly before a bracket is a function, of which nothing is known.
"""

import re
from typing import Any

from agent.tasks.killable import Killable
from critics.plain_text import plain as plain_latex

MAX_LENGTH = 300
MAX_DEPTH = 40
MAX_EXPONENT = 200
NEARBY = 0.005
"""Share by which a rational value may miss an irrational one that it stands for."""
FUNCTIONS = ("sqrt", "sin", "cos", "tan", "exp", "abs")
"""A logarithm is none: nobody says to which base."""

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?|\.\d+)|([A-Za-z]+)|([-+*/^()]))")
_REWRITES = (
    (re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"\^\{([^{}]*)\}"), r"^(\1)"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\(pi|sin|cos|tan|exp)(?![A-Za-z])"), r"\1"),
    (re.compile(r"[{}]|\$"), ""),
)
_MIXED = re.compile(r"(?<![\d.])(\d+)\s*\\frac\{(\d+)\}\{(\d+)\}")


class AlgebraError(ValueError):
    """The text is not an expression of the grammar, or breaks a bound."""


def plain(text: str) -> str:
    """LaTeX in the grammar's form, as far as the rewrites above go."""
    text = _MIXED.sub(r"(\1+((\2)/(\3)))", plain_latex(text))
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
        self.is_letter = False
        """Whether the last power was of a letter alone: f, or f^-1."""

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
        value = self.signed(depth)
        while (token := self.peek()) and token not in ("+", "-", ")", "^"):
            if token in ("*", "/"):
                self.next()
                right = self.signed(depth)
            else:
                if token == "(" and self.is_letter:
                    raise AlgebraError("a letter before a bracket may be a function")
                right = self.power(depth)
            value = value / right if token == "/" else value * right
        return value

    def signed(self, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise AlgebraError(f"nested deeper than {MAX_DEPTH}")
        if self.peek() in ("-", "+"):
            sign = self.next()
            value = self.signed(depth + 1)
            return -value if sign == "-" else value
        return self.power(depth)

    def power(self, depth: int) -> Any:
        import sympy

        is_letter = len(self.peek()) == 1 and self.peek().isalpha()
        base = self.factor(depth)
        if self.peek() != "^":
            self.is_letter = is_letter
            return base
        self.next()
        exponent = self.signed(depth + 1)
        self.is_letter = is_letter
        if exponent.is_number and not abs(complex(exponent)) <= MAX_EXPONENT:
            raise AlgebraError(f"an exponent beyond {MAX_EXPONENT}")
        return sympy.Pow(base, exponent)

    def factor(self, depth: int) -> Any:
        import sympy

        if depth > MAX_DEPTH:
            raise AlgebraError(f"nested deeper than {MAX_DEPTH}")
        token = self.next()
        if token == "(":
            return self.closed(depth)
        if token and (token[0].isdigit() or token[0] == "."):
            if self.peek()[:1].isdigit():
                raise AlgebraError("two numbers without a sign between them")
            return sympy.Rational(token)
        if token == "pi":
            return sympy.pi
        if token in FUNCTIONS:
            return self.called(token, depth)
        if len(token) == 1 and token.isalpha():
            return sympy.Symbol(token)
        raise AlgebraError(f"unexpected {token!r}")

    def called(self, name: str, depth: int) -> Any:
        import sympy

        if self.next() != "(":
            raise AlgebraError(f"{name} needs brackets")
        argument = self.closed(depth)
        if name in ("sin", "cos", "tan") and argument.is_Rational and argument:
            raise AlgebraError(f"{name}({argument}) may be of degrees")
        return (sympy.Abs if name == "abs" else getattr(sympy, name))(argument)

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


def holds(sides: tuple[str, str]) -> bool | None:
    """Whether two sides are equal for every value of their letters.

    None when a side is not of this grammar, when they are equal for some values of the letters
    only (a condition, not a claim), and when a decimal number stands beside a value that it can
    only be rounded from.
    """
    import sympy

    try:
        left, right = (parsed(side) for side in sides)
        difference = sympy.simplify(left - right)
    except AlgebraError:
        return None
    if difference == 0:
        return True
    # With letters it is a condition, and one that nothing meets is a contradiction being shown.
    if left.free_symbols or right.free_symbols or difference.is_number is not True:
        return None
    gap = abs(complex(difference.evalf(30)))
    if gap < 1e-12:
        return True
    values = [abs(complex(value.evalf(15))) for value in (left, right)]
    is_exact = all(value.is_Rational for value in (left, right))
    # pi = 22/7, sqrt(2) = 1.41: a number that an irrational one is rounded to.
    is_rounded = gap <= NEARBY * max(values) or any("." in side for side in sides)
    return None if not is_exact and is_rounded else False


class Algebra:
    """`holds`, asked in a child process; what takes too long is not known."""

    def __init__(self) -> None:
        self.process = Killable(holds, ("x", "x"))

    def holds(self, left: str, right: str) -> bool | None:
        found: bool | None = self.process.ask((left, right))
        return found

    def close(self) -> None:
        self.process.close()
