r"""Final answers: finding the one that a text ends with. Nothing is evaluated as code.

A text may give its answer as `#### 5`, `\boxed{5}` or `\fbox{5}`, `<answer>5</answer>`,
"The answer is 5." or "Answer: 5". The last place that can be an answer counts. A heading
(`#### Step 1`), an empty box and a box that is never closed are no answers.
"""

import re
from collections.abc import Iterator

from critics.equality import cleaned, is_words

MAX_LENGTH = 300
"""Characters of an answer, at most: what is longer is an explanation."""

_MARKED = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|(-?[\w.]+))")
_TAGGED = re.compile(r"<answer>(.{1,400}?)</answer>", re.IGNORECASE | re.DOTALL)
_SAID = re.compile(
    r"\banswers?\b(?:\s+(?:to|for|of)\b[^.:=\n]{0,80}?)?[*_]{0,3}\s*"
    r"(?:(?:is|are)\b\s*(?:thus|then|therefore|simply|hence)?\s*:?|:|=)\s*",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(?:is|are)\b", re.IGNORECASE)
_BEFORE_LABEL = re.compile(
    r"[#*_>\s-]*(?:(?:so|thus|hence|therefore|the|my|our|final|correct)\b[,\s]*){0,4}|.*[.!?]\s+",
    re.IGNORECASE,
)
_TITLE = re.compile(r"^[#*_>\s]*(?:the\s+)?(?:final\s+)?answer\s*[:*_\s]*$", re.IGNORECASE)
_LABEL = re.compile(
    r"^(?:(?:the|my|our)\s+)?(?:final\s+|correct\s+)?(?:answer|result|solution)"
    r"(?:\s+is\b\s*:?|\s*[:=]|\s*$)\s*",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^(?:(?:step|part|case|section|option|example|question|problem|method)\s*(?:\d+|[ivx]+|[a-d])?"
    r"|(?:the\s+)?(?:final\s+)?(?:answer|solution)|explanation|conclusion|summary|verification"
    r"|check|checking|approach|analysis|calculations?|computation|reasoning|notes?|results?|given"
    r"|thinking|solving|understanding|introduction|steps?|proof|remarks?|reflection|details)"
    r"\b(?:\s*[:.)-].*|(?:\s+\w+){0,3})$"
    r"|^\d{1,2}[.)]\s+[^\W\d_]{2}",
    re.IGNORECASE | re.DOTALL,
)
_REASON = re.compile(
    r"(?:,\s*(?:because|since|which|where|as|so)\b|\s(?:because|since)\s).*", re.IGNORECASE
)
_DENIED = re.compile(
    r"^(?:not|unknown|unclear|correct|incorrect|right|wrong|given|found|shown|obtained|clear)\b",
    re.IGNORECASE,
)
_CLOSED = frozenset(("yes", "no", "true", "false", "none", "impossible"))


def boxed(text: str) -> str | None:
    r"""Contents of the last \boxed{...} or \fbox{...} that holds something; None without one."""
    found = None
    for _, content in _boxes(text):
        found = content
    return found


def _boxes(text: str) -> Iterator[tuple[int, str]]:
    """Where each box ends, and what it holds: closed boxes that are not empty."""
    for match in _BOX.finditer(text):
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
    shown = [*_boxes(text)]
    shown += [(m.end(), m[1].strip().rstrip("#").strip()) for m in _MARKED.finditer(text)]
    shown += [(m.end(), m[1].strip()) for m in _TAGGED.finditer(text)]
    best: tuple[bool, int, str] | None = None
    for is_shown, (end, content) in [(True, s) for s in shown] + [(False, s) for s in _said(text)]:
        answer = _without_label(content)
        if not answer:
            continue
        # Words in a sentence, or with more text behind them, may be anything: they count where
        # nothing else does.
        is_last = is_shown and not text[end:].strip(" .*$\n\t")
        is_sure = not is_words(answer) or is_last or _is_closed(answer)
        if best is None or (is_sure, end) >= best[:2]:
            best = (is_sure, end, answer)
    return None if best is None else best[2]


def _is_closed(answer: str) -> bool:
    word = cleaned(answer).lower()
    return word in _CLOSED or len(word) == 1


def _said(text: str) -> Iterator[tuple[int, str]]:
    """What follows "the answer is" up to the end of its sentence, and "Answer:" of its line."""
    for match in _SAID.finditer(text):
        before = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
        if not _IS.search(match[0]) and not _BEFORE_LABEL.fullmatch(before):
            continue  # "we check our answer: ..."
        end = _sentence_end(text, match.end())
        content = _REASON.sub("", text[match.end() : end]).strip()
        if not content.strip("*_ :"):
            # "Answer:" on a line of its own: the next line that is not empty.
            line = re.compile(r"\s*([^\n]+)").match(text, end)
            is_alone = _TITLE.match(text[text.rfind("\n", 0, match.start()) + 1 : end])
            if line is None or is_alone is None:
                continue
            end, content = line.end(), line[1].strip()
        if not _DENIED.match(content):
            yield end, content
    for match in re.finditer(r"^[#*_> \t]*(?:final )?answer[*_ \t]*\n\s*([^\n]+)", text, _LINE):
        yield match.end(), match[1].strip()


_LINE = re.IGNORECASE | re.MULTILINE


def _sentence_end(text: str, begin: int) -> int:
    """A full stop counts outside of braces and dollars, before white space or the end."""
    depth, is_math = 0, False
    for i in range(begin, len(text)):
        char = text[i]
        if char == "\n":
            return i
        if char in "{}" and text[i - 1] != "\\":
            depth += 1 if char == "{" else -1
        elif char == "$" and text[i - 1] != "\\":
            is_math = not is_math and text.find("$", i + 1) > 0
        elif (
            char in ".!?;"
            and depth <= 0
            and not is_math
            and (i + 1 == len(text) or text[i + 1].isspace() or text[i + 1] in "*_\"'")
        ):
            return i
    return len(text)


def _without_label(content: str) -> str:
    """The answer that a content gives; empty for a heading and for what cannot be an answer."""
    inside = boxed(content)
    if inside is not None:
        content = inside
    content = content.strip().strip("*_`").strip()
    label = _LABEL.match(content)
    if label:
        content = content[label.end() :].strip().strip("*_`").strip()
    if not cleaned(content) or len(content) > MAX_LENGTH or not any(c.isalnum() for c in content):
        return ""
    if _HEADING.match(content) and inside is None:
        return ""
    return content
