r"""Whether two final answers are equal, by a stated rule, and the one form of an answer.

    auto     numbers by value, lists item by item, one letter as a choice, words as words;
             what is left and is mathematics on both sides is asked of a verifier
    math     as auto, but words are mathematics too
    text     as texts: letter case, spaces and mark-up aside
    choice   by the letter: `(A)`, `A.` and `A) 5 apples` are one choice

Lists are split at commas, semicolons, "and" and "or" outside of brackets. In round or square
brackets the order counts, in braces and bare it does not.
"""

import re
from collections.abc import Callable
from typing import Literal

from critics.calculator import CalculatorError, calculate
from critics.plain_text import plain
from critics.quantity import Quantity, quantity

AnswerRule = Literal["auto", "math", "text", "choice"]
Ask = Callable[[str, str], bool]
"""Whether two texts are equal as mathematics."""
MAX_ITEMS = 64
MAX_LENGTH = 1_000
"""Characters of an answer that is looked into; a longer one is compared as it is written."""
MAX_LAYERS = 8

_EMPHASIS = re.compile(r"^(\*{1,3}|_{1,3}|`)(?=\S)(.+?)\1$", re.DOTALL)
_MATH = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_NAMED = re.compile(
    r"^(?:\\?[A-Za-z]+|\\[a-z]+)(?:_\{?\w{1,8}\}?|'|\([A-Za-z](?:, ?[A-Za-z])*\))?\s*"
    r"(?:=|\\in(?![a-z]))\s*(?=\S)"
)
_ABOUT = re.compile(
    r"^(?:(?:about|approximately|exactly|roughly|around|nearly|approx\.?)\s|[≈~:：])\s*(?=\S)",
    re.IGNORECASE,
)
_MARKUP = re.compile(r"</?[a-z]{1,8}>|(?<![\d)*])\*\*(?=\S)|(?<=\S)\*\*(?![\d(*])", re.IGNORECASE)
_DATE = re.compile(
    r"\b(?:jan|feb|mar|apr|may|june?|july?|aug|sep|oct|nov|dec)[a-z]{0,6}\.? \d", re.IGNORECASE
)
_RANGE = re.compile(r"^\d[\d.,]*\s*-\s*\d[\d.,]*$")
_HALF_DAY = re.compile(r"\b([ap])\.?\s?m\b\.?", re.IGNORECASE)
_SIGNED = re.compile(r"±|\\pm(?![A-Za-z])")
_CHOICE = re.compile(r"^(?:option\s+|choice\s+)?\(?([A-Za-z])(?:\)|[.:](?:\s|$)|$)", re.IGNORECASE)
_LABELLED = re.compile(
    r"^(?:(?:option|choice)\s+\(?([A-Za-z])\)?(?=$|[\s.:])|\(?([A-Za-z])\)\s+\S)", re.IGNORECASE
)
_LETTER = re.compile(r"^\(?([A-Za-z])\)?$")
_WORD = re.compile(r"[^\W\d_]{2,}")
_NOT_WORDS = re.compile(r"[\d\\^=+*/<>|{}≤≥√π∞∪∩]|_[{\d]")
_SPLIT = re.compile(r"\s*(?:[,;]|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))\s*")
_RATIO = re.compile(r"\d\s*:\s*\d")
"""Of times and ratios: no mathematics that a verifier reads."""
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def cleaned(text: str) -> str:
    """The answer without mark-up: dollars, emphasis, `x =`, a full stop, doubled spaces."""
    text = _unwrapped(text)
    named = _NAMED.match(text)
    if named and "=" not in text[named.end() :] and not _WORD.match(named[0]):
        text = _unwrapped(text[named.end() :])
    return _last_side(text)


def _unwrapped(text: str) -> str:
    """The answer without mark-up, a name before it still there."""
    text = " ".join(plain(text[: MAX_LENGTH + 1]).split())
    if len(text) > MAX_LENGTH:
        return text
    text = _HALF_DAY.sub(r"\1m", text)
    for _ in range(MAX_LAYERS):
        before = text
        text = text.strip().rstrip(".").strip() if not text.endswith("...") else text.strip()
        emphasis = _EMPHASIS.match(text)
        if emphasis:
            text = emphasis[2]
        for left, right in _MATH:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and inner.strip():
                text = inner if left not in inner else text
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        text = _MARKUP.sub("", _ABOUT.sub("", text))
        if text == before:
            break
    return text


def _name(text: str) -> str:
    """What stands before the one equals sign: x in `x = 5`; empty without one."""
    text = _unwrapped(text)
    named = _NAMED.match(text)
    if named is None or "=" in text[named.end() :]:
        return ""
    return re.split(r"=|\\in", named[0])[0].strip()


def _last_side(text: str) -> str:
    """`2+3=5` gives 5: the value of a calculation that is right."""
    left, equals, right = text.rpartition("=")
    if equals and any(c.isdigit() for c in left) and quantity(right) is not None:
        try:
            if calculate(left.split("=")[-1]) != calculate(right):
                return text
        except CalculatorError:
            return text
        return right.strip()
    return text


def is_words(text: str) -> bool:
    """Whether a text has words and nothing of mathematics in it."""
    text = cleaned(text)
    return bool(_WORD.search(text)) and not _NOT_WORDS.search(text)


def as_choice(text: str) -> str | None:
    """The letter of a choice, in upper case."""
    match = _CHOICE.match(cleaned(text))
    return match[1].upper() if match else None


def items(text: str) -> tuple[str, list[str]]:
    """The brackets around a list, `()`, `[)` or none, and what it holds; one item for no list."""
    text = cleaned(text)
    if quantity(text) is not None:
        return "", [text]
    if r"\begin" in text or _DATE.search(text):
        return "", [text]
    if _SIGNED.search(text):
        parts = [_SIGNED.sub(sign, text, count=1) for sign in ("+", "-")]
        return "", [part.removeprefix("+") for part in parts]
    text = text.replace(r"\{", "{").replace(r"\}", "}")
    around, inside = "", text
    if text[:1] in _PAIRS and text[-1:] in ")]}" and _closes_at_end(text):
        around, inside = text[0] + text[-1], text[1:-1]
    parts = _split(inside)
    if len(parts) < 2 and around != "{}":
        return "", [text]
    return around, parts


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _split(text: str) -> list[str]:
    """Parts between separators outside of brackets. A thousands comma separates nothing."""
    parts, start, depth = list[str](), 0, 0
    place = 0
    while place < len(text):
        char = text[place]
        depth += (char in "([{") - (char in ")]}")
        match = _SPLIT.match(text, place) if depth <= 0 else None
        if match and match.end() > place and match[0].strip() and not _is_thousands(text, match):
            parts.append(text[start:place].strip())
            start = place = match.end()
        else:
            place += 1
    parts.append(text[start:].strip())
    filled = [p for p in parts if p]
    return filled if len(filled) <= MAX_ITEMS else [text]


def _is_thousands(text: str, match: re.Match[str]) -> bool:
    """Whether the comma stands inside `1,234`; a list with a space behind it has none."""
    if match[0] != ",":
        return False
    before = re.search(
        r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})*$", text[max(0, match.start() - 40) : match.start()]
    )
    return before is not None and re.match(r"\d{3}(?!\d)", text[match.end() :]) is not None


def same_answer(left: str, right: str, rule: AnswerRule = "auto", ask: Ask | None = None) -> bool:
    """Whether two answers are equal. `ask` decides what only mathematics can; without it, no."""
    if rule == "choice":
        a, b = as_choice(left), as_choice(right)
        return a == b if a and b else _folded(left) == _folded(right)
    if rule != "text":
        x, y = quantity(cleaned(left)), quantity(cleaned(right))
        if x is not None and y is not None:
            return x.equals(y)
    if rule == "text" or _folded(left) == _folded(right):
        return _folded(left) == _folded(right)
    return _is_equal(left, right, rule, ask)


def _is_equal(left: str, right: str, rule: AnswerRule, ask: Ask | None) -> bool:
    if len(left) > MAX_LENGTH or len(right) > MAX_LENGTH:
        return False
    if rule == "auto" and (one := _one_choice(left, right)) is not None:
        return one
    letters = _LETTER.match(cleaned(left)), _LETTER.match(cleaned(right))
    if letters[0] and letters[1]:
        return letters[0][1].upper() == letters[1][1].upper()
    (around, ours), (other, theirs) = items(left), items(right)
    if len(ours) > 1 or len(theirs) > 1:
        if len(ours) != len(theirs) or not _same_brackets(around, other):
            return False
        return _same_items(
            ours, theirs, rule, ask, bool(around + other) and "{" not in around + other
        )
    if around == other == "{}":
        return same_answer(ours[0], theirs[0], rule, ask)
    a, b = cleaned(left), cleaned(right)
    if _is_false(a) or _is_false(b):
        return False
    if rule == "auto" and (is_words(a) or is_words(b) or _is_no_mathematics(a, b)):
        return False
    return ask is not None and (ask(a, b) or ask(b, a))


def _is_false(text: str) -> bool:
    """Whether a text is an equation of numbers that does not hold: it names no value."""
    left, equals, right = text.rpartition("=")
    try:
        return bool(equals) and calculate(left.split("=")[-1]) != calculate(right)
    except CalculatorError:
        return False


def _is_no_mathematics(left: str, right: str) -> bool:
    """Times, ratios, ranges and dates: a verifier would compute with them."""
    sides = (left, right)
    return any(_RATIO.search(t) or _RANGE.match(t) or _DATE.search(t) for t in sides)


def _one_choice(left: str, right: str) -> bool | None:
    """Whether `A) 5 apples` is the choice `A`; None where neither side is a letter alone."""
    letters = [_LETTER.match(cleaned(t)) for t in (left, right)]
    if bool(letters[0]) == bool(letters[1]):
        return None
    letter, other = (letters[0], right) if letters[0] else (letters[1], left)
    choice = _LABELLED.match(cleaned(other))
    return (
        None
        if choice is None or letter is None
        else letter[1].upper() == (choice[1] or choice[2]).upper()
    )


def _same_brackets(left: str, right: str) -> bool:
    """Brackets may be left out; a set is no tuple, and an open end no closed one."""
    return not left or not right or left == right


def _same_items(
    left: list[str], right: list[str], rule: AnswerRule, ask: Ask | None, is_ordered: bool
) -> bool:
    if is_ordered:
        return all(_same_item(a, b, rule, ask) for a, b in zip(left, right, strict=True))
    rest = list(right)
    for item in left:
        match = next((other for other in rest if _same_item(item, other, rule, ask)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same_item(left: str, right: str, rule: AnswerRule, ask: Ask | None) -> bool:
    """An item of a list keeps its name: x=3,y=5 is not x=5,y=3."""
    names = _name(left), _name(right)
    if names[0] and names[1] and names[0] != names[1]:
        return False
    return same_answer(left, right, rule, ask)


def _folded(text: str) -> str:
    text = cleaned(text).replace(r"\{", "{").replace(r"\}", "}")
    letter = _LETTER.match(text)
    if letter:
        return letter[1].casefold()
    # Spaces say nothing in mathematics, times and ratios.
    is_tight = r"\begin" in text or (
        _NOT_WORDS.search(text) and not _WORD.search(re.sub(r"\\[A-Za-z]+", "", text))
    )
    return re.sub(r"\s+", "", text) if is_tight else text.casefold()


def normal_form(text: str, rule: AnswerRule = "auto") -> str:
    """One way to write an answer: `72` for 72.0, `1/2` for 0.5, `2,1` for `2, 1`, `A` for (A)."""
    text = cleaned(text)
    if rule == "text" or len(text) > MAX_LENGTH:
        return text
    choice = as_choice(text) if rule == "choice" else (_LETTER.match(text) or (None, None))[1]
    if choice:
        return choice.upper() if rule == "choice" else choice
    found = quantity(text)
    if isinstance(found, Quantity):
        return str(found)
    around, parts = items(text)
    if len(parts) > 1 and not is_words(text):
        forms = [_named_form(p) for p in parts]
        tight = around[:1] + ",".join(forms) + around[1:]
        # 100,200 would be one number.
        is_read_back = items(tight)[1] == forms
        return tight if is_read_back else around[:1] + ", ".join(forms) + around[1:]
    return text


def _named_form(part: str) -> str:
    """An item of a list, which keeps its name: `x=3,y=5` is not `x=5,y=3`."""
    name = _name(part)
    return f"{name}={normal_form(part)}" if name else normal_form(part)
