r"""One plain way to write what people, models and LaTeX write in several.

`plain` changes characters and mark-up only, never what is said: digits of other scripts become
ASCII, each minus is `-`, `½` is `1/2`, `x²` is `x^2`, and `\dfrac12` is `\frac{1}{2}`.
"""

import re
import unicodedata

_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-")
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u200a\u202f\u3000"), " ")
_NOTHING = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"), "")
_SIGNS = {ord("\u2044"): "/", ord("\u2215"): "/", ord("\uff05"): "%", ord("\u066b"): "."}
_TABLE = _MINUS | _SPACES | _NOTHING | _SIGNS
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_VULGAR = re.compile("(\\d?)([¼½¾⅐-⅞])")

_COMMANDS = (
    (
        re.compile(r"\\(?:left|right|displaystyle|limits|bigl|bigr|big|Big)(?![A-Za-z])"),
        "",
    ),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*(?=\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\!\s*|\{,\}(?=\d)"), lambda m: "," if m[0] == "{,}" else ""),
    (re.compile(r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|~"), " "),
    # The white space before is taken from its beginning on, else time is quadratic in it.
    (re.compile(r"(?:(?<!\s)\s+)?\\\\\s*"), r" \\\\ "),
    (re.compile(r"\\infty(?![A-Za-z])"), "∞"),
    (re.compile(r"\\(?:emptyset|varnothing)(?![A-Za-z])"), "∅"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\([%$&#_])"), r"\1"),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])|[×·∙⋅✕]"), "*"),
    (re.compile(r"\\div(?![A-Za-z])|÷"), "/"),
    (re.compile(r"\\(?:leq?|le)(?![A-Za-z])"), "≤"),
    (re.compile(r"\\(?:geq?|ge)(?![A-Za-z])"), "≥"),
)
_WRAPPED = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|textrm|textit|mathbf|operatorname|emph)\s*\{([^{}]*)\}"
)


def plain_characters(text: str) -> str:
    """Characters alone: for any line of prose. Its cost grows with the length only."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT.sub(
        lambda m: "^" + unicodedata.normalize("NFKC", m[0]).replace("\u2212", "-"), text
    )
    text = _VULGAR.sub(
        lambda m: (
            f"{m[1]} {unicodedata.normalize('NFKC', m[2])}"
            if m[1]
            else unicodedata.normalize("NFKC", m[2])
        ),
        text,
    )
    text = text.translate(_TABLE)
    return "".join(
        str(unicodedata.decimal(c)) if not c.isascii() and c.isdecimal() else c for c in text
    )


def plain(text: str) -> str:
    r"""Characters and LaTeX: `\text{cm}` becomes ` cm`, `\cdot` becomes `*`, `\left(` is `(`."""
    text = plain_characters(text)
    if "\\" not in text and "~" not in text and "{" not in text:
        return text.replace("×", "*").replace("·", "*").replace("÷", "/")
    for pattern, replacement in _COMMANDS:
        text = pattern.sub(replacement, text)
    for _ in range(3):
        text, num = _WRAPPED.subn(r" \1 ", text)
        if not num:
            break
    return text
