"""The longest runs of a line, left and right of an equals sign, that the calculator can read.

A run is tokens of arithmetic; currency signs, units and the words of a unit between numbers are
passed over. What stands directly beside it decides whether it is whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

from critics.calculator import NUMBER, number
from critics.word_lists import (
    BEHIND,
    LETTERS,
    NAMED,
    OPERATION_WORDS,
    PARTS,
    PROSE,
)

MAX_TOKENS = 60
"""Of one side."""
MAX_DIGITS = 60
"""Of a number; what has more is no step of a person's."""
MAX_UNIT_WORDS = 4


class Edge(IntEnum):
    """What stands directly beside a run."""

    CLEAR = 0
    """It cannot belong to the run."""
    UNSURE = 1
    """A true run is a claim, a false one none."""
    OPEN = 2
    """It may belong to the run."""


_TOKEN = re.compile(
    r"(?P<code>0[xbo][0-9A-Fa-f]+|\d+/\d+/\d{2,}|\d+(?=[:_]\d))|"
    rf"(?P<number>{NUMBER})|(?P<equals>==|=(?![>=]))|(?P<operator>\*\*|[-+*/×·÷^])"
    r"|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<percent>%)|(?P<currency>[$£€¥₹])"
    r"|(?P<word>[A-Za-z]{2,}\^[23](?!\d)|[A-Za-z]+(?:['’-][A-Za-z]+)*)|(?P<dots>\.{2,}|…)|(?P<stop>[.,;:!?\"“”→⇒∴•#])"
    r"|(?P<other>\S)"
)
_OPERATORS = {"of": "*", "×": "*", "·": "*", "÷": "/", "**": "^"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Run:
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


def tokens_of(line: str) -> list[Token]:
    """Words that mean an operation become one: `x` between numbers, `of` behind a share."""
    found = [Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(line)]
    for i, token in enumerate(found):
        if token.kind != "word" or i == 0 or i + 1 == len(found):
            continue
        before, behind = found[i - 1], found[i + 1]
        is_between = before.kind in ("number", "close", "percent", "word") and behind.kind in (
            "number",
            "open",
            "currency",
        )
        if (
            token.text in ("x", "X")
            and is_between
            and not (before.kind == "word" and (i < 2 or found[i - 2].kind != "number"))
        ):
            found[i] = Token("operator", "*", token.start, token.end)
        elif token.text == "of" and behind.kind in ("number", "currency", "open"):
            is_share = before.kind == "percent" or (
                i > 2
                and [t.kind for t in found[i - 3 : i]] == ["number", "operator", "number"]
                and found[i - 2].text == "/"
            )
            if is_share:
                found[i] = Token("operator", "of", token.start, token.end)
    return found


def leftward(tokens: Sequence[Token], first: int, end: int) -> Run | None:
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
    tokens: Sequence[Token], edge: Edge, units: set[str], is_named: bool = False
) -> Run | None:
    side = side_of(tokens)
    if side is None or edge is Edge.OPEN:
        return None
    of = next((i for i, t in enumerate(tokens) if t.text == "of" and t.kind == "operator"), None)
    return Run(
        side,
        edge,
        frozenset(units | {t.text for t in tokens if t.kind == "currency"}),
        tokens[0].start,
        tokens[-1].end,
        _with_fractions(tokens) or side,
        () if of is None else side_of(tokens[:of]) or (),
        is_named and len(side) == 1,
    )


def _with_fractions(tokens: Sequence[Token]) -> tuple[Fraction | str, ...] | None:
    """The side with tight fractions as numbers; None where there is none behind a division."""
    found: list[Token] = []
    side: list[Fraction | str] = []
    i = 0
    while i < len(tokens):
        part = tokens[i : i + 3]
        is_tight = (
            [t.kind for t in part] == ["number", "operator", "number"]
            and part[1].text in ("/", "÷")
            and part[0].end == part[1].start
            and part[1].end == part[2].start
        )
        if is_tight and found and found[-1].text in ("/", "÷") and found[-1].end < part[0].start:
            side += ["(", *(side_of(part) or ()), ")"]
            i += 3
            continue
        found.append(tokens[i])
        side += _symbols(tokens, i)
        i += 1
    return tuple(side) if len(found) < len(tokens) else None


def _unit_phrase(tokens: Sequence[Token], first: int, last: int) -> int | None:
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


def _is_variable(tokens: Sequence[Token], place: int) -> bool:
    """Whether the word at a place is one letter that stands for a number: 2a, 3 x."""
    token = tokens[place]
    if len(token.text) != 1 or token.kind != "word":
        return False
    is_attached = place > 0 and tokens[place - 1].end == token.start
    return is_attached or token.text not in LETTERS


def _changes(word: str) -> bool:
    """Whether a word is no part of a unit."""
    low = word.lower()
    return low in BEHIND or low in OPERATION_WORDS or low in PROSE or word == "sqrt"


def _left_edge(tokens: Sequence[Token], first: int, start: int, before: int) -> Edge:
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
        is_thousands = token.text == "," and number_before and len(opening.text) == 3
        is_split = is_thousands or (before > first and tokens[before - 1].kind == "operator")
        is_part = is_attached and token.text in ".,:"
        return Edge.OPEN if is_part or is_split else Edge.CLEAR
    return Edge.OPEN


def _word_edge(tokens: Sequence[Token], first: int, before: int, is_attached: bool) -> Edge:
    word = tokens[before].text.lower()
    near = [t.kind for t in tokens[max(first, before - 2) : before]]
    if "number" in near and "stop" not in near and tokens[before + 2].kind == "word":
        return Edge.OPEN  # 5 feet 3 inches
    if is_attached or word in OPERATION_WORDS or (len(word) == 1 and word not in ("a", "i")):
        return Edge.OPEN
    earlier = [t.text.lower() for t in tokens[max(first, before - 3) : before]]
    sentence = _sentence_before(tokens, first, before)
    if "of" in sentence and (PARTS.intersection(sentence) or "%" in sentence or "/" in sentence):
        return Edge.OPEN  # half of the remaining 20 + 10
    if "off" in sentence and "%" in sentence:
        return Edge.OPEN
    if "if" in (*earlier, word):
        return Edge.UNSURE
    if word == "of" and (PARTS.intersection(earlier) or "%" in earlier):
        return Edge.OPEN
    if word == "by" and any(w.startswith(("multipl", "divid", "time")) for w in earlier):
        return Edge.OPEN
    if word in ("the", "and") and OPERATION_WORDS.intersection(earlier[-1:]):
        return Edge.OPEN
    if word == "and" and near[-1:] == ["number"]:
        return Edge.OPEN  # 1 and 1/4
    return Edge.UNSURE if word in NAMED else Edge.CLEAR


def _sentence_before(tokens: Sequence[Token], first: int, before: int) -> list[str]:
    """The last words of the sentence up to a place."""
    found: list[str] = []
    for token in reversed(tokens[max(first, before - 6) : before + 1]):
        if token.kind == "stop":
            break
        found.append(token.text.lower())
    return found


def _bracket_edge(tokens: Sequence[Token], first: int, place: int) -> Edge:
    """A run that begins behind a bracket which is not closed in it."""
    if place == first or place - 1 < first:
        return Edge.CLEAR
    token = tokens[place - 1]
    is_attached = token.end == tokens[place].start
    if token.kind == "stop":
        return Edge.CLEAR
    return Edge.OPEN if is_attached or token.kind != "word" else Edge.CLEAR


def rightward(tokens: Sequence[Token], first: int, end: int) -> Run | None:
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


def _phrase_end(tokens: Sequence[Token], first: int, end: int) -> int | None:
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


def _is_readable(tokens: Sequence[Token], first: int, end: int) -> bool:
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


def _right_edge(tokens: Sequence[Token], last: int, behind: int, end: int) -> Edge:
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
        ahead = [t.text.lower() for t in tokens[behind + 1 : min(end, behind + 4)]]
        kinds = [t.kind for t in tokens[behind + 1 : min(end, behind + 3)]]
        if word == "and" and (kinds[:1] == ["number"] or {"half", "quarter", "third"} & {*ahead}):
            return Edge.OPEN  # 5 and a half
        if kinds == ["number", "word"] and tokens[behind + 2].text.lower() not in PROSE:
            return Edge.OPEN  # 1 hour 15 minutes
        is_letter = _is_variable(tokens, behind)
        return Edge.OPEN if is_letter or word in BEHIND or "-" in word else Edge.CLEAR
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


def side_of(tokens: Sequence[Token]) -> tuple[Fraction | str, ...] | None:
    """What the calculator is given; None when there is no number in it, or one that is a time."""
    if any(t.kind == "number" and re.match(r"0\d", t.text) for t in tokens):
        return None
    if any(t.kind == "number" and len(t.text) > MAX_DIGITS for t in tokens):
        return None
    side = [symbol for i in range(len(tokens)) for symbol in _symbols(tokens, i)]
    return tuple(side) if any(isinstance(t, Fraction) for t in side) else None


def _symbols(tokens: Sequence[Token], i: int) -> list[Fraction | str]:
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
