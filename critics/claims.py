"""The equations that a line of prose claims, and whether each holds.

Around each `=` the longest run that the calculator can read is judged: `so (2 + 3) * 4 - 1 = 19
eggs` claims `(2 + 3) * 4 - 1 = 19`. Currency signs, units and the words of a unit between numbers
are passed over. Nothing is said where what stands directly before or behind the run may belong to
it (`x + 5 = 10`, `half of 20 = 10`, `f(3) = 4`), and a false equation is not refuted where another
reading would save it: rounded values, other units on both sides, percent that is added, a guess
that the line itself calls wrong.
"""

import re
from dataclasses import dataclass

from critics.agreement import Side, is_near, sides_agree, values_of
from critics.plain_text import plain_characters
from critics.runs import MAX_TOKENS, Edge, Run, leftward, rightward, side_of, tokens_of
from critics.word_lists import FACTORS, FAMILIES, SCALES, UNIT_JOINTS

MAX_LINE = 2_000
MAX_EQUALS = 24
"""Equals signs of a text that are looked at; a text with more is no step."""


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    """As the line writes it."""
    holds: bool | None
    """None where it cannot be told."""


_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")
_BULLET = re.compile(r"^\s*(?:[*•]\s+|\(?(?:\d{1,2}|[a-z])[.)]\s+(?=\S))")
_DASH = re.compile(r"^\s*-\s+")
_EMPHASIS = re.compile(r"(?<![\d)*])\*\*(?=\S)([^*\n]+(?:\*[^*\n]+)*)(?<=\S)\*\*(?![\d(*])")
_HEDGE = re.compile(
    r"\b(?:contradict\w*|impossible|incorrect|wrong|false|untrue|suppose|assum\w+|guess"
    r"|mistake\w*|try|trying|no solution|absurd|fail\w*|invalid|instead|miscalculat\w*|modul\w+"
    r"|mod|remainder|base|binary|hexadecimal|hex|octal|carry\w*|digits?|clock|average|mean|median"
    r"|absolute value|too (?:big|large|small|high|low|many|much|few)|not met)\b"
    r"|(?:\bnot|n['’]t)\s*(?:=|\b(?:equal|true|possible|correct|right|valid|work|hold|satisf|met))"
    r"|≠|\?|!=|\\neq?\b|\\p?mod\b|, no\b",
    re.IGNORECASE,
)
_SCALE = re.compile(r"\b(?:thousands?|millions?|billions?|trillions?)\b", re.IGNORECASE)
_MIXED = re.compile(r"(?<![\d.}])(\d+)\s*\\[dt]?frac\s*\{(\d+)\}\s*\{(\d+)\}")
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]{1,80})\}\s*\{([^{}]{1,80})\}"), r" ((\1)/(\2))"),
    (re.compile(r"\\sqrt\s*\{([^{}]{1,80})\}"), r" sqrt(\1)"),
    (re.compile(r"√\s*\(?(\d+)\)?"), r" sqrt(\1)"),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\\([%$])"), r"\1"),
)


def claims(text: str) -> list[Claim]:
    """All that the text claims, line by line; annotations like `<<2+3=5>>` are claims too."""
    found: list[Claim] = []
    if text.count("=") > MAX_EQUALS:
        return found
    doubt = is_hedged(text)
    for line in text.split("\n"):
        if "=" not in line or len(line) > MAX_LINE:
            continue
        for match in _ANNOTATION.finditer(line):
            found += _line_claims(match[1], False)
        found += _line_claims(_ANNOTATION.sub("", line), doubt)
    return found


def is_hedged(text: str) -> bool:
    """Whether a text says of itself that an equation in it may be false, or counts in thousands."""
    return bool(_HEDGE.search(text)) or bool(_SCALE.search(text))


def plain_formula(text: str) -> str:
    r"""Arithmetic without LaTeX: `\frac{1}{2}` becomes `((1)/(2))`, `3\frac{1}{2}` `3 1/2`."""
    text = _MIXED.sub(r"\1 \2/\3", text)
    for _ in range(3):
        before = text
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    return text


def _line_claims(line: str, is_hedged: bool) -> list[Claim]:
    line = plain_characters(line)
    if "\\" in line or "√" in line:
        line = plain_formula(line)
    line = _EMPHASIS.sub(r"\1", line)
    bullet = _BULLET.match(line)
    if bullet:
        line = line[bullet.end() :]
    dash = _DASH.match(line)
    if dash is None:
        return _read(line, is_hedged)
    # The dash of a list, or a minus sign: an equation that holds by one reading holds.
    as_list, as_minus = (_read(part, is_hedged) for part in (line[dash.end() :], line))
    if as_list and as_minus and as_minus[0].holds and not as_list[0].holds:
        as_list[0] = as_minus[0]
    return as_list


def _read(line: str, is_hedged: bool) -> list[Claim]:
    found: list[Claim] = []
    tokens = tokens_of(line)
    places = [i for i, t in enumerate(tokens) if t.kind == "equals"]
    bounds = [-1, *places, len(tokens)]
    for n, place in enumerate(places):
        left = leftward(tokens, bounds[n] + 1, place)
        right = rightward(tokens, place + 1, bounds[n + 2])
        if left is None or right is None:
            continue
        verdict = _verdict(left, right, is_hedged)
        if n and verdict is None and len(left.side) == len(right.side) == 1 and found:
            # The end of a chain: 2 + 3 = 5 = 7.
            is_bare = not left.units and not right.units and left.side != right.side
            verdict = False if is_bare and found[-1].holds and not is_hedged else None
        found.append(Claim(line[left.start : right.end].strip(), verdict))
    return found


def _verdict(left: Run, right: Run, is_hedged: bool) -> bool | None:
    holds = sides_agree(left.side, right.side)
    if holds and _mixes_units(left, right):
        return None
    if holds is not False:
        return holds
    if sides_agree(left.fractions, right.fractions) or (
        right.share and sides_agree(left.side, right.share)
    ):
        return True
    is_sure = not is_hedged and left.edge is right.edge is Edge.CLEAR and not left.is_named
    if not is_sure or not _have_one_unit(left, right):
        return None
    is_money = any(u in "$£€¥₹" for u in left.units | right.units)
    return None if not is_money and is_near(left.side, right.side) else False


def _units(run: Run) -> set[str]:
    return {_unit(u) for u in run.units} - UNIT_JOINTS


def _mixes_units(left: Run, right: Run) -> bool:
    """Whether the numbers agree and the units cannot: 3 feet + 4 feet = 7 inches."""
    ours, theirs = _units(left), _units(right)
    if not ours or not theirs or ours & theirs:
        return False
    is_sum = all(t not in ("*", "/", "^") for t in left.side)
    return is_sum and any(ours & family and theirs & family for family in FAMILIES)


def _have_one_unit(left: Run, right: Run) -> bool:
    """Whether no conversion may stand between two sides: 1/4 hour = 15 minutes is no mistake."""
    ours, theirs = _units(left), _units(right)
    if (ours | theirs) & SCALES or any(len((ours | theirs) & f) > 1 for f in FAMILIES):
        return False
    is_amount = bool(ours) and not any(t in ("*", "+", "-", "/", "^", "sqrt") for t in left.side)
    if is_amount or (bool(ours) and bool(theirs) and not ours & theirs):
        return False
    if len(ours) > 1 and any(t in ("+", "-") for t in left.side):
        return False
    ours_value, theirs_value = values_of(left.side)[0].number, values_of(right.side)[0].number
    if not ours_value or not theirs_value:
        return True
    ratios = {theirs_value / ours_value, ours_value / theirs_value}
    if any(theirs & family for family in FAMILIES):
        return not ratios & FACTORS
    # 3/4 = 75 means percent.
    return not (_is_share(left.side) and theirs_value / ours_value == 100)


def _unit(word: str) -> str:
    """A unit in its singular, in small letters."""
    word = word.lower()
    if word in ("dollar", "dollars"):
        return "$"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 2 and word.endswith("s") else word


def _is_share(side: Side) -> bool:
    """A plain number or fraction: with a unit behind it, it names an amount."""
    return all(t not in ("*", "+", "-", "^", "sqrt") for t in side)


def whole_side(text: str) -> Side | None:
    """A text as one side, if the calculator can read all of it; currency signs are passed over."""
    tokens = tokens_of(text) if len(text) <= MAX_LINE else []
    readable = ("number", "operator", "open", "close", "percent", "currency")
    if not tokens or any(t.kind not in readable and t.text != "sqrt" for t in tokens):
        return None
    return side_of(tokens) if len(tokens) <= MAX_TOKENS else None
