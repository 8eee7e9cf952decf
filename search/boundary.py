"""Where an option ends: token level, line level and sentence level are boundaries like any other.

A boundary looks at text only. Which tokens may end an option is found once for a vocabulary, so an
engine asks `ends` only after those.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from search.errors import SearchSettingsError


def _anything(_: str) -> bool:
    return True


def _nothing(_: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Boundary:
    """One rule. Its name identifies it: two boundaries of one name are the same."""

    name: str
    may_end: Callable[[str], bool] = _anything
    """Whether a token of this text may be an option's last."""
    ends: Callable[[str], bool] | None = None
    """Whether an option of this text is whole, asked after a token that may end it; None: always.

    A callable of one's own must be a pure function of the text.
    """
    max_tokens: int = 0
    """An option of this many tokens is whole whatever they are; 0 sets no such bound."""

    def cut(self, text: str) -> list[str]:
        """The text in its options, a character taken for a token; the last may not be whole.

        >>> NEWLINE.cut("a\\nbc\\nd")
        ['a\\n', 'bc\\n', 'd']
        """
        options, option = list[str](), ""
        for character in text:
            option += character
            if self.is_whole(option, character):
                options.append(option)
                option = ""
        return [*options, option] if option else options

    def is_whole(self, option: str, last: str) -> bool:
        """Whether the text is a whole option, given the text of its last token."""
        if 0 < self.max_tokens <= len(option):
            return True
        return self.may_end(last) and (self.ends is None or self.ends(option))


_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_FORMULA = re.compile(
    r"\$[^$]+\$|\\\(|\\\[|\\(?:frac|sqrt|cdot|times)|[=<>≤≥≈]|\d\s*[-+*/×÷^]\s*\d"
)


def _has_newline(token: str) -> bool:
    return "\n" in token


def _ends_blank(text: str) -> bool:
    body = text.rstrip()
    return bool(body) and bool(_BLANK_LINE.search(text, len(body)))


def _ends_formula_line(text: str) -> bool:
    """AlphaLLM's rule for MATH: a line that holds a formula, else on to the next blank line."""
    lines = text.rstrip("\n").split("\n")
    return bool(_FORMULA.search(lines[-1])) or _ends_blank(text)


def _may_end_sentence(token: str) -> bool:
    return any(mark in token for mark in ".!?\n")


def _ends_sentence(text: str) -> bool:
    """A full stop after a digit counts only with white space behind it: `3.` may become `3.5`."""
    body = text.rstrip()
    quoted = body.rstrip("\"')]")
    has_mark = quoted.endswith((".", "!", "?"))
    if len(body) < len(text):
        return bool(body) and (has_mark or "\n" in text[len(body) :])
    before = quoted[-2:-1]
    if before.isdecimal():
        return quoted == body and quoted.endswith(("!", "?"))
    return has_mark and bool(before) and not before.isspace()


NEWLINE = Boundary("newline", _has_newline)
BLANK_LINE = Boundary("blank_line", _has_newline, _ends_blank)
FORMULA_LINE = Boundary("formula_line", _has_newline, _ends_formula_line)
SENTENCE = Boundary("sentence", _may_end_sentence, _ends_sentence)
_NAMED = {b.name: b for b in (NEWLINE, BLANK_LINE, FORMULA_LINE, SENTENCE)}
NAMES = (*_NAMED, "token", "tokens:N")


def boundary_named(name: str) -> Boundary:
    """The boundary of that name. Raises SearchSettingsError for an unknown one.

    >>> boundary_named("tokens:8").max_tokens, boundary_named("token").max_tokens
    (8, 1)
    """
    if name in _NAMED:
        return _NAMED[name]
    count = "1" if name == "token" else name.removeprefix("tokens:")
    if (name == "token" or name.startswith("tokens:")) and count.isdigit() and int(count) > 0:
        return Boundary(f"tokens:{int(count)}", _nothing, None, int(count))
    raise SearchSettingsError(
        f"search setting boundary is {name!r}", f"use one of {', '.join(NAMES)}"
    )
