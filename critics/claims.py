"""The equations that a line of prose claims, and whether each holds.

Around each `=` the longest run that the calculator can read is judged: `so (2 + 3) * 4 - 1 = 19
eggs` claims `(2 + 3) * 4 - 1 = 19`. Currency signs, units and the words of a unit between numbers
are passed over. Nothing is said where what stands directly before or behind the run may belong to
it (`x + 5 = 10`, `half of 20 = 10`, `f(3) = 4`), and a false equation is not refuted where another
reading would save it: rounded values, other units on both sides, percent that is added, a guess
that the line itself calls wrong.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from itertools import product

from critics.calculator import NUMBER, CalculatorError, Value, evaluated, number
from critics.plain_text import plain_characters

MAX_LINE = 2_000
MAX_TOKENS = 60
"""Of one side."""
MAX_UNIT_WORDS = 4
MAX_ROUNDED = 4
"""Rounded numbers of a side that are moved by half a digit."""

Side = Sequence[Fraction | str]


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    """As the line writes it."""
    holds: bool | None
    """None where it cannot be told."""


class Edge(IntEnum):
    """What stands directly beside a run."""

    CLEAR = 0
    """It cannot belong to the run."""
    UNSURE = 1
    """A true run is a claim, a false one none."""
    OPEN = 2
    """It may belong to the run."""


_TOKEN = re.compile(
    rf"(?P<number>{NUMBER})|(?P<equals>==|=(?![>=]))|(?P<operator>\*\*|[-+*/×·÷^])"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<percent>%)|(?P<currency>[$£€¥₹])"
    r"|(?P<word>[A-Za-z]{2,}\^[23](?!\d)|[A-Za-z]+(?:['’-][A-Za-z]+)*)|(?P<dots>\.{2,}|…)|(?P<stop>[.,;:!?\"“”→⇒∴•#])"
    r"|(?P<other>\S)"
)
_OPERATORS = {"of": "*", "×": "*", "·": "*", "÷": "/", "**": "^"}
_ANNOTATION = re.compile(r"<<([^<>\n]{1,200})>>")
_BULLET = re.compile(r"^\s*(?:[*•]\s+|\(?(?:\d{1,2}|[a-z])[.)]\s+(?=\S))")
_DASH = re.compile(r"^\s*-\s+")
_EMPHASIS = re.compile(r"(?<![\d)*])\*\*(?=\S)([^*\n]+(?:\*[^*\n]+)*)(?<=\S)\*\*(?![\d(*])")
_HEDGE = re.compile(
    r"\b(?:contradict\w*|impossible|incorrect|wrong|false|untrue|suppose|assum\w+|guess"
    r"|mistake\w*|try|trying|no solution|absurd)\b"
    r"|(?:\bnot|n['’]t)\s+(?:equal|true|possible|correct|right|valid|work|hold|satisf)"
    r"|≠|\?|!=|\\neq?\b",
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
_OPERATION_WORDS = frozenset(
    "twice thrice half double triple quadruple times plus minus over log ln sin cos tan cot sec"
    " root cube square power factorial mod modulo than third thirds quarter quarters fifth sixth"
    " seventh eighth ninth tenth percent negative lg exp max min gcd lcm abs floor ceil".split()
)
"""Words before a number that make it another one."""
_PARTS = frozenset(
    "half third thirds quarter quarters fifth fifths sixth sixths seventh eighth eighths ninth"
    " tenth tenths hundredth percent percentage root square cube power log multiple product sum"
    " average mean difference twice double triple ratio remainder factorial logarithm".split()
)
"""Words that make something else of what follows them with "of"."""
_BEHIND = frozenset(
    "times plus minus over squared cubed factorial divided multiplied mod modulo remainder hundred"
    " thousand million billion trillion dozen percent percentage k m bn th st nd rd r pi"
    " degrees degree or to half halves thirds quarters fourths fifths sixths eighths tenths"
    " hundredths".split()
)
"""Words behind a number that make it another one."""
_SCALES = frozenset("hundred thousand million billion trillion dozen k".split())
_UNIT_JOINTS = frozenset(("per", "a", "an", "each", "every", "the", "of", "in", "for", "s"))
_FACTORS = frozenset((7, 12, 16, 24, 52, 60, 100, 365, 1000, 1440, 3600))
"""Between two units of one measure."""
_LETTERS = frozenset(("a", "A", "I"))
_PROSE = frozenset(
    "because is are was were so and that then thus has have had gives gets get makes make since if"
    " when but which he she it they we you i who would will can must where while after before to"
    " from with at on by as than therefore hence equals equal total be do does did".split()
)
"""Words that are no part of a unit."""
_NAMED = frozenset(
    "day week month year number no page chapter level step grade class room part group team round"
    " game lesson problem question equation line case test quiz days weeks months years".split()
)
"""Words that make a name of the number behind them: on day 1."""
_FAMILIES = tuple(
    frozenset(names.split())
    for names in (
        "second sec s minute min hour hr h day week month year decade century",
        "inch in foot feet ft yard yd mile mi mm cm m km meter metre kilometer centimeter",
        "ounce oz pound lb ton g kg mg gram kilogram",
        "cup pint quart gallon ounce liter litre l ml teaspoon tablespoon milliliter",
        "$ dollar cent penny penni nickel dime quarter ¢ euro £ € pound",
    )
)
"""Units of one measure: two of them in an equation may stand for a conversion."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Run:
    """One side of an equation."""

    side: tuple[Fraction | str, ...]
    edge: Edge
    units: frozenset[str]
    """Words of units and signs of currencies."""
    start: int
    end: int
    fractions: tuple[Fraction | str, ...]
    """The side with each fraction that is written tight, as in `2 / 1/4`, taken for one number."""
    share: tuple[Fraction | str, ...] = ()
    """What stands before "of", if anything does: 1/3 in `1/3 of $150`."""
    is_named: bool = False
    """Whether a word stands before a lone number, which then may be a name: week 2."""


def claims(text: str) -> list[Claim]:
    """All that the text claims, line by line; annotations like `<<2+3=5>>` are claims too."""
    found: list[Claim] = []
    is_hedged = bool(_HEDGE.search(text)) or bool(_SCALE.search(text))
    for line in text.split("\n"):
        if "=" not in line or len(line) > MAX_LINE:
            continue
        for match in _ANNOTATION.finditer(line):
            found += _line_claims(match[1], False)
        found += _line_claims(_ANNOTATION.sub("", line), is_hedged)
    return found


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
    tokens = _tokens(line)
    places = [i for i, t in enumerate(tokens) if t.kind == "equals"]
    bounds = [-1, *places, len(tokens)]
    for n, place in enumerate(places):
        left = _leftward(tokens, bounds[n] + 1, place)
        right = _rightward(tokens, place + 1, bounds[n + 2])
        if left is None or right is None:
            continue
        verdict = _verdict(left, right, is_hedged)
        found.append(Claim(line[left.start : right.end].strip(), verdict))
    return found


def _tokens(line: str) -> list[_Token]:
    """Words that mean an operation become one: `x` between numbers, `of` behind a share."""
    found = [_Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(line)]
    for i, token in enumerate(found):
        if token.kind != "word" or i == 0 or i + 1 == len(found):
            continue
        before, behind = found[i - 1], found[i + 1]
        is_between = before.kind in ("number", "close", "percent", "word") and behind.kind in (
            "number",
            "open",
            "currency",
        )
        if token.text in ("x", "X") and is_between and not (
            before.kind == "word" and (i < 2 or found[i - 2].kind != "number")
        ):
            found[i] = _Token("operator", "*", token.start, token.end)
        elif token.text == "of" and behind.kind in ("number", "currency"):
            is_share = before.kind == "percent" or (
                i > 2
                and [t.kind for t in found[i - 3 : i]] == ["number", "operator", "number"]
                and found[i - 2].text == "/"
            )
            if is_share:
                found[i] = _Token("operator", "of", token.start, token.end)
    return found


def _leftward(tokens: Sequence[_Token], first: int, end: int) -> _Run | None:
    """The longest readable run that ends before `end`."""
    units: set[str] = set()
    depth, i, start = 0, end - 1, end
    edge = Edge.CLEAR
    while i >= first:
        token = tokens[i]
        if token.kind == "word":
            begin = _unit_phrase(tokens, first, i)
            if begin is None or token.text == "sqrt":
                if token.text == "sqrt" and i + 1 < end and tokens[i + 1].kind == "open":
                    start = i
                    i -= 1
                    continue
                break
            units |= {t.text.lower() for t in tokens[begin : i + 1]}
            i = begin - 1
            continue
        if token.kind == "close":
            depth += 1
        elif token.kind == "open":
            if depth == 0:
                break
            depth -= 1
        elif token.kind == "operator" and token.text == "/" and i + 1 < end:
            if tokens[i + 1].kind == "word" and tokens[i + 1].text != "sqrt":
                i -= 1  # a unit such as pens/box
                continue
        elif token.kind not in ("number", "operator", "percent", "currency"):
            break
        start = i
        i -= 1
    if depth or start == end or end - start > MAX_TOKENS:
        return None
    edge = _left_edge(tokens, first, start, i)
    is_named = i >= first and tokens[i].kind == "word"
    return _run(tokens[start:end], edge, units, is_named)


def _run(
    tokens: Sequence[_Token], edge: Edge, units: set[str], is_named: bool = False
) -> _Run | None:
    side = _side(tokens)
    if side is None or edge is Edge.OPEN:
        return None
    of = next((i for i, t in enumerate(tokens) if t.text == "of" and t.kind == "operator"), None)
    return _Run(
        side,
        edge,
        frozenset(units | {t.text for t in tokens if t.kind == "currency"}),
        tokens[0].start,
        tokens[-1].end,
        _with_fractions(tokens) or side,
        () if of is None else _side(tokens[:of]) or (),
        is_named and len(side) == 1,
    )


def _with_fractions(tokens: Sequence[_Token]) -> tuple[Fraction | str, ...] | None:
    """The side with tight fractions as numbers; None where there is none behind a division."""
    found: list[_Token] = []
    side: list[Fraction | str] = []
    i = 0
    while i < len(tokens):
        part = tokens[i : i + 3]
        is_tight = (
            [t.kind for t in part] == ["number", "operator", "number"]
            and part[1].text == "/"
            and part[0].end == part[1].start
            and part[1].end == part[2].start
        )
        if is_tight and found and found[-1].text == "/" and found[-1].end < part[0].start:
            side += ["(", *(_side(part) or ()), ")"]
            i += 3
            continue
        found.append(tokens[i])
        side += _symbols(tokens, i)
        i += 1
    return tuple(side) if len(found) < len(tokens) else None


def _unit_phrase(tokens: Sequence[_Token], first: int, last: int) -> int | None:
    """Where the words that end at `last` begin, if they are the unit of a number before them."""
    i = last
    while i >= first and (tokens[i].kind == "word" or tokens[i].text == "/"):
        i -= 1
    words = [t.text for t in tokens[i + 1 : last + 1] if t.kind == "word"]
    is_behind = i >= first and tokens[i].kind in ("number", "close", "percent")
    behind = tokens[last + 1]
    # Behind a unit the sum goes on; a number there begins another one.
    if not is_behind or behind.kind not in ("operator", "equals", "close"):
        return None
    if len(words) > MAX_UNIT_WORDS or any(_changes(w) for w in words) or words[0] == "of":
        return None
    return None if _is_variable(tokens, i + 1) else i + 1


def _is_variable(tokens: Sequence[_Token], place: int) -> bool:
    """Whether the word at a place is one letter that stands for a number: 2a, 3 x."""
    token = tokens[place]
    if len(token.text) != 1 or token.kind != "word":
        return False
    is_attached = place > 0 and tokens[place - 1].end == token.start
    return is_attached or token.text not in _LETTERS


def _changes(word: str) -> bool:
    """Whether a word is no part of a unit."""
    low = word.lower()
    return low in _BEHIND or low in _OPERATION_WORDS or low in _PROSE or word == "sqrt"


def _left_edge(tokens: Sequence[_Token], first: int, start: int, before: int) -> Edge:
    """What the token before a run makes of it."""
    opening = tokens[start]
    if before < first:
        return Edge.OPEN if opening.kind == "operator" and opening.text not in "+-" else Edge.CLEAR
    token = tokens[before]
    is_attached = token.end == opening.start
    if opening.kind == "operator":
        # A sign may be the run's own only where nothing stands before it.
        is_sign = opening.text in "+-" and token.kind in ("stop", "open") and not is_attached
        return Edge.CLEAR if is_sign and token.text != "#" else Edge.OPEN
    if token.kind == "word":
        return _word_edge(tokens, first, before, is_attached)
    if token.kind == "open":
        return _bracket_edge(tokens, first, before)
    if token.kind == "stop":
        number_before = before > first and tokens[before - 1].kind == "number"
        # 14, 400 may be one number, and so may . 84.
        is_split = token.text == "," and number_before and re.fullmatch(r"\d{3}", opening.text)
        is_split = is_split or (before > first and tokens[before - 1].kind == "operator")
        is_part = is_attached and token.text in ".,:"
        return Edge.OPEN if is_part or is_split else Edge.CLEAR
    return Edge.OPEN


def _word_edge(tokens: Sequence[_Token], first: int, before: int, is_attached: bool) -> Edge:
    word = tokens[before].text.lower()
    near = [t.kind for t in tokens[max(first, before - 2) : before]]
    if "number" in near and "stop" not in near and tokens[before + 2].kind == "word":
        return Edge.OPEN  # 5 feet 3 inches
    if is_attached or word in _OPERATION_WORDS or (len(word) == 1 and word not in ("a", "i")):
        return Edge.OPEN
    earlier = [t.text.lower() for t in tokens[max(first, before - 3) : before]]
    if word == "of" and (_PARTS.intersection(earlier) or "%" in earlier):
        return Edge.OPEN
    if word == "by" and any(w.startswith(("multipl", "divid", "time")) for w in earlier):
        return Edge.OPEN
    if word in ("the", "and") and _OPERATION_WORDS.intersection(earlier[-1:]):
        return Edge.OPEN
    if word == "and" and near[-1:] == ["number"]:
        return Edge.OPEN  # 1 and 1/4
    return Edge.UNSURE if word in _NAMED else Edge.CLEAR


def _bracket_edge(tokens: Sequence[_Token], first: int, place: int) -> Edge:
    """A run that begins behind a bracket which is not closed in it."""
    if place == first or place - 1 < first:
        return Edge.CLEAR
    token = tokens[place - 1]
    is_attached = token.end == tokens[place].start
    if token.kind == "stop":
        return Edge.CLEAR
    return Edge.OPEN if is_attached or token.kind != "word" else Edge.CLEAR


def _rightward(tokens: Sequence[_Token], first: int, end: int) -> _Run | None:
    """The longest readable run that begins at `first`."""
    units: set[str] = set()
    depth, i, last = 0, first, first - 1
    while i < end:
        token = tokens[i]
        if token.kind == "word" and token.text == "sqrt" and i + 1 < end:
            if tokens[i + 1].kind != "open":
                break
        elif token.kind == "word":
            behind = _phrase_end(tokens, i, end)
            if last < first or behind is None:
                break
            units |= {t.text.lower() for t in tokens[i:behind]}
            i = behind
            continue
        elif token.kind == "open":
            if not _is_readable(tokens, i, end):
                break
            depth += 1
        elif token.kind == "close":
            if depth == 0:
                break
            depth -= 1
        elif token.kind == "operator" and token.text == "/" and i + 1 < end:
            if tokens[i + 1].kind == "word" and tokens[i + 1].text != "sqrt":
                i += 1  # a unit such as pens/box
                if _phrase_end(tokens, i, end) is None:
                    break
                continue
        elif token.kind not in ("number", "operator", "percent", "currency"):
            break
        last = i
        i += 1
    if depth or last < first or last - first > MAX_TOKENS:
        return None
    edge = _right_edge(tokens, last, i, end)
    if i < end and tokens[i].kind == "word":
        units.add(tokens[i].text.lower())
    return _run(tokens[first : last + 1], edge, units)


def _phrase_end(tokens: Sequence[_Token], first: int, end: int) -> int | None:
    """Where the words of a unit end, if the sum goes on behind them."""
    i = first
    while i < end and i - first <= 2 * MAX_UNIT_WORDS:
        if tokens[i].text == "/" and i + 1 < end and tokens[i + 1].kind == "word":
            i += 1
        if tokens[i].kind != "word":
            break
        if _changes(tokens[i].text) or _is_variable(tokens, i):
            return None
        i += 1
    if i >= end:
        # A middle side of a chain ends with its unit; the last one is followed by prose.
        return i if end < len(tokens) and tokens[end].kind == "equals" else None
    goes_on = tokens[i].kind == "operator" and i + 1 < end
    if goes_on and tokens[i + 1].kind in ("number", "open", "currency"):
        return i
    return None


def _is_readable(tokens: Sequence[_Token], first: int, end: int) -> bool:
    """Whether a bracket closes and holds nothing but a sum."""
    depth = 0
    for i in range(first, min(end, first + MAX_TOKENS)):
        kind = tokens[i].kind
        depth += (kind == "open") - (kind == "close")
        if depth == 0:
            return True
        if kind not in ("number", "operator", "percent", "currency", "open", "close"):
            return tokens[i].text == "sqrt"
    return False


def _right_edge(tokens: Sequence[_Token], last: int, behind: int, end: int) -> Edge:
    """What the token behind a run makes of it."""
    if tokens[last].kind == "operator":
        return Edge.OPEN
    if behind >= end:
        return Edge.CLEAR
    token = tokens[behind]
    is_attached = tokens[last].end == token.start
    if token.kind == "word":
        word = token.text.lower()
        if word == "of":
            return Edge.UNSURE
        is_letter = _is_variable(tokens, behind)
        return Edge.OPEN if is_letter or word in _BEHIND or "-" in word else Edge.CLEAR
    if token.kind == "stop":
        goes_on = behind + 1 < end and tokens[behind + 1].start == token.end
        is_part = is_attached and token.text in ".,:" and goes_on
        if is_part and tokens[behind + 1].kind == "number":
            return Edge.OPEN
        return Edge.UNSURE if token.text in "!?" else Edge.CLEAR
    if token.kind == "close":
        return Edge.CLEAR
    if token.kind == "open":
        is_aside = behind + 1 < end and tokens[behind + 1].kind == "word" and not is_attached
        return Edge.CLEAR if is_aside else Edge.OPEN
    if token.kind == "operator":  # of a word or of nothing
        return Edge.OPEN
    return Edge.OPEN


def _side(tokens: Sequence[_Token]) -> tuple[Fraction | str, ...] | None:
    """What the calculator is given; None when there is no number in it, or one that is a time."""
    if any(t.kind == "number" and re.match(r"0\d", t.text) for t in tokens):
        return None
    side = [symbol for i in range(len(tokens)) for symbol in _symbols(tokens, i)]
    return tuple(side) if any(isinstance(t, Fraction) for t in side) else None


def _symbols(tokens: Sequence[_Token], i: int) -> list[Fraction | str]:
    """One token for the calculator; words of units and signs of currencies are none."""
    token = tokens[i]
    if token.kind == "number":
        return [number(token.text)]
    if token.kind == "operator":
        is_unit = token.text == "/" and i + 1 < len(tokens) and tokens[i + 1].kind == "word"
        is_unit = is_unit and tokens[i + 1].text != "sqrt"
        return [] if is_unit else [_OPERATORS.get(token.text, token.text)]
    if token.kind in ("open", "close"):
        return ["(" if token.kind == "open" else ")"]
    if token.kind == "percent":
        return ["%"]
    return ["sqrt"] if token.text == "sqrt" else []


def _verdict(left: _Run, right: _Run, is_hedged: bool) -> bool | None:
    holds = sides_agree(left.side, right.side)
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
    return None if not is_money and _is_near(left.side, right.side) else False


def _have_one_unit(left: _Run, right: _Run) -> bool:
    """Whether no conversion may stand between two sides: 1/4 hour = 15 minutes is no mistake."""
    ours, theirs = ({_unit(u) for u in run.units} - _UNIT_JOINTS for run in (left, right))
    if (ours | theirs) & _SCALES or any(len((ours | theirs) & f) > 1 for f in _FAMILIES):
        return False
    is_amount = bool(ours) and not any(t in ("*", "+", "-", "/", "^", "sqrt") for t in left.side)
    is_measure = any(theirs & family for family in _FAMILIES)
    if is_amount or (bool(ours) and bool(theirs) and not ours & theirs):
        return False
    if is_measure and _is_share(left.side):
        ours_value, theirs_value = _values(left.side)[0].number, _values(right.side)[0].number
        return not ours_value or theirs_value / ours_value not in _FACTORS
    return True


def _unit(word: str) -> str:
    if word in ("dollar", "dollars"):
        return "$"
    return word[:-1] if len(word) > 2 and word.endswith("s") else word


def _is_share(side: Side) -> bool:
    """A plain number or fraction: with a unit behind it, it names an amount."""
    return all(t not in ("*", "+", "-", "^", "sqrt") for t in side)


def sides_agree(left: Side, right: Side) -> bool | None:
    """Whether two sides have one value; None for what claims nothing, is rounded, or would hold
    with its percent signs read as points."""
    if not _computes(left) and not _computes(right):
        return None
    holds = _agree(left, right)
    if holds is False and "%" in (*left, *right):
        points = [tuple(t for t in side if t != "%") for side in (left, right)]
        percents = [side.count("%") for side in (left, right)]
        is_lone = any(n == 0 and not _computes(s) for n, s in zip(percents, (left, right), strict=True))
        # A bare number beside a sum of percent names what is a hundred percent.
        if is_lone and any(_only_percent(side) for side in (left, right)):
            return None
        return None if _agree(*points) is not False else False
    return holds


def _only_percent(side: Side) -> bool:
    return side.count("%") == sum(isinstance(t, Fraction) for t in side)


def _agree(left: Side, right: Side) -> bool | None:
    ours, theirs = _values(left), _values(right)
    if not ours or not theirs:
        return None
    if any(a.number == b.number for a in ours for b in theirs):
        return True
    if any(v.is_ambiguous for v in (*ours, *theirs)) or _adds_percent(left) or _adds_percent(right):
        return None
    return None if _is_rounded(ours, right, left) or _is_rounded(theirs, left, right) else False


def _is_near(left: Side, right: Side) -> bool:
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
    if not _computes(side) and len(rounded) == 0:
        half = Fraction(1, 2 * 10 ** max(_places(v) for v in values)) if values[0].denominator > 1 else 0
        return min(values) - half, max(values) + half
    return min(values), max(values)


def _computes(side: Side) -> bool:
    """Whether a side is more than one number with a sign."""
    rest = side[1:] if side and side[0] in ("-", "+") else side
    return any(isinstance(t, str) for t in rest)


def _values(side: Side) -> list[Value]:
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
    shown = _values(rounded)
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


def whole_side(text: str) -> Side | None:
    """A text as one side, if the calculator can read all of it; currency signs are passed over."""
    tokens = _tokens(text) if len(text) <= MAX_LINE else []
    readable = ("number", "operator", "open", "close", "percent", "currency")
    if not tokens or any(t.kind not in readable and t.text != "sqrt" for t in tokens):
        return None
    return _side(tokens) if len(tokens) <= MAX_TOKENS else None
