"""Final answers: finding them in a text and comparing them. Nothing is evaluated as code."""

import re
from fractions import Fraction

_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?"
_MARKED = re.compile(r"####\s*(.+?)\s*$", re.MULTILINE)
_SAID = re.compile(r"answer\s+is\s*:?\s*\$?(" + _NUMBER + ")", re.IGNORECASE)


def boxed(text: str) -> str | None:
    r"""Contents of the last \boxed{...}, brackets balanced; None when there is none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len(r"\boxed{")
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i].strip()
    return None


def final_answer(text: str) -> str | None:
    r"""`#### x`, else \boxed{x}, else "the answer is x"; None when the text has none of them."""
    marked = _MARKED.findall(text)
    if marked:
        return str(marked[-1])
    inside = boxed(text)
    if inside:
        return inside
    said = _SAID.findall(text)
    return str(said[-1]) if said else None


def as_number(text: str) -> Fraction | None:
    """The exact value of a plain number, `1,234.5`, `$7` or `3/4`; None for anything else."""
    text = text.strip().replace("$", "").replace(",", "").rstrip(".%")
    if len(text) > 60 or not re.fullmatch(r"-?\d+(\.\d+)?(/\d+)?", text):
        return None
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def normal_form(text: str) -> str:
    """One way to write an answer, so that equal numbers count as one answer in a vote: `72` for
    72.0 and $72; any other text as it is."""
    value = as_number(text)
    if value is None:
        return text.strip()
    return str(value.numerator) if value.denominator == 1 else str(value)


def same_answer(left: str, right: str) -> bool | None:
    """Whether two answers are equal as numbers or as texts; None when that cannot be told here."""
    if left.strip() == right.strip():
        return True
    a, b = as_number(left), as_number(right)
    return a == b if a is not None and b is not None else None
