r"""A number as an answer writes it, with its percent sign, currency and unit.

Read are `1,234.5`, `-3/4`, `\frac{3}{4}`, `3 1/2`, `1.5e3`, `2^{10}`, `$5`, `50 %`, `18 dollars`,
`5 million`; anything else is no quantity. Only well-formed thousands are one number: `1,234` is,
`1,2` and `0,123` are lists.

When two quantities are equal:

- a percent sign keeps its value (50 % is 0.5), and a bare number above 1 beside the same number of
  percent is read as percent (50 is 50 %, but 0.5 is not 0.5 %);
- a unit or currency that only one side names does not matter; two different ones are not equal,
  and nothing is converted.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from critics.plain_text import plain
from critics.word_lists import words_of

MAX_LENGTH = 120
MAX_EXPONENT = 400
MAX_BITS = 380
"""Of a power: as many digits as a text of `MAX_LENGTH` holds."""

_INTEGER = r"(?:[1-9]\d{0,2}(?:,\d{3})+(?![\d,])|[1-9]\d{0,2}(?: \d{3})+(?![\d ,])|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d+)?|\.\d+)"
_FRACTION = (
    r"(?:\\frac\{(?P<{0}top>-?\d+)\}\{(?P<{0}bottom>\d+)\}"
    r"|(?P<{0}over>\d+)\s*/\s*(?P<{0}under>\d+))"
)
_VALUE = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<currency>[$£€¥₹¢]?)\s*(?P<inner>-?)\s*(?:"
    + rf"(?P<whole>{_INTEGER})(?:\s+|(?=\\frac)){_FRACTION.replace('{0}', 'm')}"
    + rf"|{_FRACTION.replace('{0}', 'f')}"
    + rf"|(?P<top>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    + rf"|(?P<base>{_DECIMAL})\s*\^\s*(?:\{{(?P<braced>-?\d+)\}}|(?P<bare>-?\d+))"
    + rf"|(?P<mantissa>{_DECIMAL})(?:[eE](?P<e>[-+]?\d+)"
    + r"|\s*(?:\*|(?<=\s)x(?=\s))\s*10\s*\^\s*(?:\{(?P<ten>-?\d+)\}|(?P<tens>-?\d+)))"
    + rf"|(?P<number>{_DECIMAL})"
    + r")(?P<rest>.*)",
    re.DOTALL,
)
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_REST = re.compile(
    r"\s*(?P<percent>%|percent\b|per cent\b)?\s*(?P<currency>[$£€¥₹¢°]?)"
    r"(?P<unit>[A-Za-zµ°](?:[A-Za-zµ°'./-]|\^\{?[23]\}?|\s(?=[A-Za-z/(])){0,40})?\s*[.]?\s*"
)
_NAMES = {
    "$": ("dollar", "dollars", "usd", "buck", "bucks"),
    "€": ("euro", "euros", "eur"),
    "£": ("gbp",),
    "¢": ("cent", "cents"),
    "%": ("percent", "percentage"),
    "°": ("degree", "degrees", "deg"),
    "cm": ("centimeter", "centimetre"),
    "mm": ("millimeter", "millimetre"),
    "km": ("kilometer", "kilometre"),
    "m": ("meter", "metre"),
    "in": ("inch", "inches"),
    "ft": ("foot", "feet"),
    "yd": ("yard",),
    "mi": ("mile",),
    "kg": ("kilogram", "kilo"),
    "g": ("gram",),
    "mg": ("milligram",),
    "lb": ("lbs",),
    "oz": ("ounce",),
    "l": ("liter", "litre"),
    "ml": ("milliliter", "millilitre"),
    "s": ("second", "sec", "secs"),
    "min": ("minute", "mins"),
    "h": ("hour", "hr", "hrs"),
    "mph": ("miles per hour",),
}
_ALIASES = {alias: name for name, aliases in _NAMES.items() for alias in aliases}
_ASIDE = re.compile(r"(?<=[\d%]) \(([A-Za-z][A-Za-z ]{0,30})\)$")
"""A unit in brackets."""
_SINGLE_UNITS = frozenset("mgshlLKCFVWNJA°")
_NO_UNITS = words_of(
    """
    and or to plus minus times over by than remainder r is are x y z pi sqrt mod
    """
)


@dataclass(frozen=True, slots=True)
class Quantity:
    value: Fraction
    """As written: 50 for 50 %."""
    is_percent: bool = False
    currency: str = ""
    """One sign; empty without one."""
    unit: str = ""
    """As written; empty without one."""

    @property
    def share(self) -> Fraction:
        """The value with its percent sign counted."""
        return self.value / 100 if self.is_percent else self.value

    def __str__(self) -> str:
        sign = "-" if self.value < 0 else ""
        unit = "" if not self.unit else self.unit if self.unit == "°" else f" {self.unit}"
        return f"{sign}{self.currency}{abs(self.value)}{'%' if self.is_percent else ''}{unit}"

    def equals(self, other: "Quantity") -> bool:
        """By the rules above."""
        return self._has_value_of(other) and _go_together(self._units(), other._units())

    def _has_value_of(self, other: "Quantity") -> bool:
        if self.share == other.share:
            return True
        if self.is_percent == other.is_percent or self.value != other.value:
            return False
        return abs(self.value) > 1

    def _units(self) -> frozenset[str]:
        if self.unit.lower() in _ALIASES:
            return frozenset((_ALIASES[self.unit.lower()],))
        unit = re.sub(r"\b(?:square|sq)\.? (\w+)", r"\1^2", self.unit, flags=re.IGNORECASE)
        unit = re.sub(r"\bcubic (\w+)", r"\1^3", unit, flags=re.IGNORECASE)
        words = [w for w in re.split(r"[\s/.]+", unit) if w]
        found = {_unit_name(w) for w in words} - {"per", "a", "an", "the", "each", "every", "of"}
        return frozenset(found | ({self.currency} if self.currency else set()))


def _go_together(left: frozenset[str], right: frozenset[str]) -> bool:
    if "pound" in left | right:  # a weight or a currency: it goes with either
        left, right = (
            frozenset("pound" if u in ("lb", "£") else u for u in side) for side in (left, right)
        )
    return left <= right or right <= left


def _unit_name(word: str) -> str:
    word = word.replace("{", "").replace("}", "")
    power = word[-2:] if word[-2:] in ("^2", "^3") else ""
    base = word.removesuffix(power)
    # mW is no MW: small letters only where the case says nothing.
    if len(base) > 3 or base.isupper() or base.islower():
        base = base.lower() if len(base) > 1 else base
    if base in _ALIASES:
        return _ALIASES[base] + power
    singular = base[:-1] if len(base) > 3 and base.endswith("s") else base
    return _ALIASES.get(singular, singular) + power


def quantity(text: str) -> Quantity | None:
    """The quantity that the text is, whole; None for anything else."""
    if len(text) > 10 * MAX_LENGTH:
        return None
    text = _ASIDE.sub(r" \1", plain(text).strip())
    if not text or len(text) > MAX_LENGTH or not any(c.isdigit() for c in text):
        return None
    match = _VALUE.fullmatch(text)
    if match is None:
        return None
    value = _value(match)
    rest = _REST.fullmatch(match["rest"])
    if value is None or rest is None:
        return None
    words = (rest["unit"] or "").strip(" .").split()
    if words and not match["rest"][:1].isspace() and not _may_be_attached(match["rest"], words[0]):
        return None
    lowered = [w.lower() for w in words]
    if len(words) > 4 or _NO_UNITS.intersection(lowered) or lowered[:1] == ["of"]:
        return None
    while words and words[0].lower() in _SCALES:
        value *= _SCALES[words.pop(0).lower()]
        words = words[1:] if words and words[0].lower() == "of" else words
    if len(words) == 1 and len(words[0]) == 1 and words[0] not in _SINGLE_UNITS:
        return None
    is_negative = (match["sign"] == "-") != (match["inner"] == "-")
    currency = match["currency"] or rest["currency"] or ""
    if currency == "°":
        words, currency = ["°", *words], ""
    elif len(words) == 1 and _unit_name(words[0]) in ("$", "€", "£", "¢", "%"):
        name = _unit_name(words.pop())
        if name == "%":
            return Quantity(-value if is_negative else value, True, currency)
        currency = currency or name
    return Quantity(
        -value if is_negative else value, bool(rest["percent"]), currency, " ".join(words)
    )


def _may_be_attached(rest: str, word: str) -> bool:
    """`5cm` and `90°` are quantities, `5x` is a product."""
    return not rest[:1].isalpha() or len(re.match(r"[A-Za-zµ]+", word)[0]) > 1  # type: ignore[index]


def _value(match: re.Match[str]) -> Fraction | None:
    found = {
        k: v.replace(",", "").replace(" ", "")
        for k, v in match.groupdict().items()
        if v is not None
    }
    try:
        if "whole" in found:
            top, bottom = (
                found.get("mtop") or found["mover"],
                found.get("mbottom") or found["munder"],
            )
            part = Fraction(int(top), int(bottom))
            return Fraction(found["whole"]) + part if 0 <= part < 1 else None
        if "ftop" in found or "fover" in found:
            top, bottom = (
                found.get("ftop") or found["fover"],
                found.get("fbottom") or found["funder"],
            )
            return Fraction(int(top), int(bottom))
        if "top" in found:
            return Fraction(found["top"]) / Fraction(found["under"])
        if "base" in found:
            return _power(Fraction(found["base"]), int(found.get("braced") or found["bare"]))
        if "mantissa" in found:
            exponent = int(found.get("e") or found.get("ten") or found["tens"])
            power = _power(Fraction(10), exponent)
            return None if power is None else Fraction(found["mantissa"]) * power
        return Fraction(found["number"])
    except (ZeroDivisionError, ValueError):  # ValueError: more digits than Python converts
        return None


def _power(base: Fraction, exponent: int) -> Fraction | None:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    is_small = abs(exponent) <= MAX_EXPONENT and bits * abs(exponent) <= MAX_BITS
    return base**exponent if is_small and (base or exponent >= 0) else None
