r"""Final answers: finding the one that a text ends with. Nothing is evaluated as code.

A text may give its answer as `#### 5`, `\boxed{5}` or `\fbox{5}`, `<answer>5</answer>`,
"The answer is 5." or "Answer: 5". The last place that can be an answer counts; what is shown in one
of the first three ways comes before what a sentence says. A heading (`#### Step 1`), an empty box
and a box that is never closed are no answers.

The cost grows with the length of the text only: of each way the last `MOST` places are looked at,
in the last `MAX_TEXT` characters.
"""

import re
import unicodedata
from collections import deque
from collections.abc import Iterator

from critics.equality import cleaned, is_words

MAX_LENGTH = 300
"""Characters of an answer, at most: what is longer is an explanation."""
MAX_TEXT = 50_000
MOST = 64

_MARKED = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]{0,2000})")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s{0,9}(?:\{|(-?[\w.]+))")
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).){1,400}?)</answer>", re.IGNORECASE | re.DOTALL)
_SAID = re.compile(
    r"\b(?:answers?|correct\s(?:option|choice))\b"
    r"(?:,?\s(?:to|for|of|in|we|that)\b(?:[^.:=\n]|\.\d){0,80}?|,[^.:=,\n]{1,30},)?[*_]{0,3}\s{0,3}"
    r"(?:\b(?:is|are|was|would\sbe|must\sbe|should\sbe|will\sbe)\b"
    r"\s{0,3}(?:(?:thus|then|therefore|simply|hence|indeed)\b)?\s{0,3}[:：]?|[:：]|=)[ \t]{0,3}",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|are|was|be)\b", re.IGNORECASE)
_BEFORE_LABEL = re.compile(
    r"(?:[^\w\n]|\b(?:so|thus|hence|therefore|the|my|our|final|correct)\b|\bstep\s*\d+\b|\b\d{1,2}[.)]"
    r"){0,12}|.*[.!?]\s+(?:(?:so|thus|the|my|our|final|correct)\s+){0,3}",
    re.IGNORECASE,
)
_TITLE = re.compile(r"^[^\w\n]*(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*[:*_\s]*$", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:(?:therefore|thus|so|hence)\b,?\s*)?"
    r"(?:(?:(?:the|my|our)\s+)?(?:final\s+|correct\s+)?(?:answer|result|solution)"
    r"(?:\s+is\b\s*:?|\s*[:=]|\s*$)\s*)?",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^(?:(?:step|part|case|section|example|question|problem|method)\s*(?:\d+|[ivx]+|[a-d])?"
    r"|(?:the\s+)?(?:final\s+)?(?:answer|solution)|explanation|conclusion|summary|verification"
    r"|check|checking|approach|analysis|calculations?|computation|reasoning|notes?|results?|given"
    r"|thinking|solving|understanding|introduction|steps?|proof|remarks?|reflection|details)"
    r"\b(?:\s*[:.)-].*|(?:\s+\w+){0,3})$"
    r"|^\d{1,2}[.)]\s+[^\W\d_]{2}",
    re.IGNORECASE | re.DOTALL,
)
_REASON = re.compile(
    r"(?:,\s*(?:because|since|which|where|as|so|not)\b|\s(?:because|since)\s).*", re.IGNORECASE
)
_DENIED = re.compile(
    r"^(?:not|unknown|unclear|correct|incorrect|right|wrong|given|found|shown|obtained|clear"
    r"|reasonable|consistent|verified|valid)\b",
    re.IGNORECASE,
)
_LEFT_OVER = re.compile(
    r"(?:<\|[^|<>]{1,30}\|>|</?(?:s|eos|pad|answer|end_of_turn|endoftext)>|####).*$",
    re.IGNORECASE | re.DOTALL,
)
_ABBREVIATION = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Prof|Jr|Sr|Mt|No|vs|approx|i\.e|e\.g|etc))$"
)
_CLOSED = frozenset(("yes", "no", "true", "false", "none", "impossible"))
_FENCES = re.compile(r"^\s*(?:\$\$|\\\[|\\\(|`{3}\w*|\\begin\{[^{}]*\})\s*$")


def boxed(text: str) -> str | None:
    r"""Contents of the last \boxed{...} or \fbox{...} that holds something; None without one."""
    found = None
    for _, content in _boxes(text):
        found = content
    return found


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    """Where each box ends, and what it holds: closed boxes that are not empty."""
    for match in deque(_BOX.finditer(text), MOST):
        if match[1]:
            yield match.end(), match[1]
            continue
        end = _closing(text, match.end())
        if end is not None and text[match.end() : end].strip(" $*~\n\t"):
            yield end + 1, text[match.end() : end].strip()


def _closing(text: str, begin: int) -> int | None:
    """Where the brace opened before `begin` is closed; an escaped brace is a character."""
    depth = 1
    for i in range(begin, min(len(text), begin + 10 * MAX_LENGTH)):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return i
    return None


def final_answer(text: str) -> str | None:
    """The last answer that the text gives, as it writes it; None when it gives none."""
    text = text[-MAX_TEXT:]
    boxes = [(end, content, True) for end, content in _boxes(text)]
    shown = [
        (m.end(), m[1].strip().rstrip("#"), False) for m in deque(_MARKED.finditer(text), MOST)
    ]
    shown += [(m.end(), m[1].strip(), False) for m in deque(_TAGGED.finditer(text), MOST)]
    said = [(end, content, False) for end, content in _said(text)]
    best: tuple[bool, bool, int, str] | None = None
    for is_shown, found in ((True, boxes + shown), (False, said)):
        for end, content, is_box in found:
            answer = _without_label(content, is_box)
            if not answer:
                continue
            # Words in a sentence, or with more text behind them, may be anything: they count
            # where nothing else does.
            is_last = is_shown and not text[end:].strip(" .*$\n\t")
            is_sure = not is_words(answer) or is_last or _is_closed(answer)
            if best is None or (is_sure, is_shown, end) >= best[:3]:
                best = (is_sure, is_shown, end, answer)
    return None if best is None else best[3]


def _is_closed(answer: str) -> bool:
    word = cleaned(answer).lower()
    return word in _CLOSED or len(word) == 1


def _said(text: str) -> Iterator[tuple[int, str]]:
    """What follows "the answer is" up to the end of its sentence, and "Answer:" of its line."""
    for match in deque(_SAID.finditer(text), MOST):
        start = max(text.rfind("\n", 0, match.start()) + 1, match.start() - 200)
        before = text[start : match.start()]
        if not _IS.search(match[0]) and not _BEFORE_LABEL.fullmatch(before):
            continue  # "we check our answer: ..."
        end = _sentence_end(text, match.end())
        content = _REASON.sub("", text[match.end() : end]).strip()
        if not content.strip("*_ :"):
            # "Answer:" on a line of its own: the next line that says something.
            if _TITLE.match(text[start:end]) is None:
                continue
            end, content = _next_line(text, end)
        if content and not _DENIED.match(content):
            yield end, content
    for match in deque(_ALONE.finditer(text), MOST):
        end, content = _next_line(text, match.end())
        if content and not re.match(r"(?:is|are)\b", content):
            yield end, content


_ALONE = re.compile(
    r"^[#*_> \t]{0,9}(?:the )?(?:final )?answer[*_ \t]{0,9}$", re.IGNORECASE | re.MULTILINE
)


def _next_line(text: str, begin: int) -> tuple[int, str]:
    """The next line that is neither empty nor the opening of a formula or a block."""
    for _ in range(4):
        end = text.find("\n", begin + 1)
        end = len(text) if end < 0 else end
        line = text[begin:end].strip()
        if line and not _FENCES.match(line):
            return end, line
        if end == len(text):
            break
        begin = end
    return begin, ""


def _sentence_end(text: str, begin: int) -> int:
    """A full stop counts outside of braces and formulas, unless an abbreviation ends with it."""
    depth = 0
    i, last = begin, min(len(text), begin + 2 * MAX_LENGTH)
    while i < last:
        char = text[i]
        if char == "\n":
            return i
        if char in "{}" and text[i - 1] != "\\":
            depth += 1 if char == "{" else -1
        elif char == "$" and text[i - 1] != "\\":
            i = _formula_end(text, i, last)
        elif char in ".!?" and depth <= 0 and _ends_sentence(text, begin, i):
            return i
        i += 1
    return last


def _formula_end(text: str, begin: int, last: int) -> int:
    """Where a formula that opens at a dollar closes; the dollar itself where it is a currency."""
    end = text.find("$", begin + 1, last)
    inside = text[begin + 1 : end]
    is_formula = end > 0 and inside.strip() == inside and not re.search(r"[.!?]\s|\n", inside)
    return end if is_formula and inside else begin


def _ends_sentence(text: str, begin: int, place: int) -> bool:
    behind = text[place + 1 : place + 3]
    if behind and not (behind[0].isspace() or behind[0] in "*_\"'<)"):
        return False
    before = text[max(begin, place - 8) : place]
    if text[place] != "." or not behind.strip() or not before or before[-1].isdigit():
        return True
    if _ABBREVIATION.search(before):
        return False
    return not (behind[:1] == " " and (behind[1:2].islower() or behind[1:2].isdigit()))


def _without_label(content: str, is_box: bool = False) -> str:
    """The answer that a content gives; empty for a heading and for what cannot be an answer."""
    inside = boxed(content)
    if inside is not None:
        content, is_box = inside, True
    content = content.strip().strip("*_`").strip()
    if not is_box:
        content = content[_LABEL.match(content).end() :]  # type: ignore[union-attr]
        content = _LEFT_OVER.sub("", content).strip().strip("*_`").strip(" ")
    if len(content) > MAX_LENGTH or not any(map(_says, content)) or not cleaned(content):
        return ""
    if not is_box and _HEADING.match(content):
        return ""
    return content


def _says(char: str) -> bool:
    """Whether a character alone may be an answer: a letter, a digit, a sign of mathematics."""
    return char.isalnum() or unicodedata.category(char) in ("Sm", "So") or char == "{"
