r"""Rows of real data as problems: which of a row's keys is the question, and which the answer.

| form | question | reference answer | worked answer |
| --- | --- | --- | --- |
| GSM8K | question | the `####` line of answer | answer |
| plain | question or problem | answer, final_answer | - |
| MATH | problem | answer, else the last box of solution | solution |
| prompt and completion | prompt | what completion ends with | completion |
| chat | the user's message | what the last assistant's message ends with | that message |
| verl | the user's message of prompt | reward_model.ground_truth | - |

Any row may have a picture under `image`, or several under `images`: paths below the file's folder,
or data URLs.

Two rows are one problem when their texts differ in letter case and white space only. Repeated rows
count once; rows that contradict each other are refused, both named. A null counts as a key that is
not there. Numbers are taken as they are written.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from agent.pictures.folder import PictureFolder
from agent.tasks.pictured import marked, picture_parts, pictures_of_row
from agent.tasks.row_files import RowError, rows_of
from agent.tasks.task import check_characters, check_text
from critics.answer import boxed, final_answer
from search.errors import TaskError

MAX_ANSWER_CHARACTERS = 2_000
QUESTIONS = ("question", "problem", "prompt", "messages")
"""Keys under which a question may stand."""
SKIP = "--set bad_rows=skip to leave such rows out"
SHORT = 60
"""Characters of a one-line answer that needs no `####`."""
MAX_EXPONENT = 1_000

OnBad = Literal["refuse", "skip"]


@dataclass(frozen=True, slots=True)
class Row:
    text: str
    answer: str | None
    """Reference; None where the row has none."""
    worked: str | None
    """A worked answer of several steps; None where the row has none."""
    where: str
    """File and line."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a file holds, and what of it was left out."""

    rows: tuple[Row, ...]
    skipped: tuple[str, ...]
    """Why rows were left out, one text a row."""
    num_repeated: int


def read_rows(
    source: str,
    on_bad: OnBad = "refuse",
    key: Callable[[str], str] = lambda text: " ".join(text.lower().split()),
    same: Callable[[str, str], bool] = lambda a, b: a == b,
    pictures: PictureFolder | None = None,
) -> Rows:
    """The problems of a file; their pictures are kept in `pictures`. Raises TaskError naming file,
    line and value."""
    found: dict[str, Row] = {}
    skipped: list[str] = []
    dropped: set[str] = set()
    repeated = 0
    for where, raw in rows_of(source):
        try:
            row = _row(where, raw, Path(source), pictures)
        except RowError as error:
            if on_bad == "refuse":
                raise RowError(error.message, f"{error.fix}, or add {SKIP}") from error
            skipped.append(error.message)
            continue
        name = key(row.text)
        known = found.get(name)
        if known is None:
            if name not in dropped:
                found[name] = row
            continue
        repeated += 1
        if known.answer is None or row.answer is None or same(known.answer, row.answer):
            if known.answer is None and row.answer is not None:
                found[name] = row
            continue
        clash = (
            f"{known.where} and {row.where.rpartition(', ')[2]} are one problem "
            f"({row.text[:60]!r}) with two answers, {known.answer[:40]!r} and {row.answer[:40]!r}"
        )
        if on_bad == "refuse":
            raise TaskError(clash, f"correct one of them, or add {SKIP}")
        skipped.append(clash)
        dropped.add(name)
        del found[name]
    if not found:
        raise TaskError(
            f"{source} holds no problems" + (f" ({skipped[0]})" if skipped else ""),
            "write one JSON object a line",
        )
    return Rows(tuple(found.values()), tuple(skipped), repeated)


def _row(where: str, raw: Any, file: Path, pictures: PictureFolder | None) -> Row:
    if isinstance(raw, RowError):
        raise raw
    if not isinstance(raw, dict):
        fix = "end the file's name with .json" if isinstance(raw, list) else "write {...}"
        raise RowError(f"{where} is a {type(raw).__name__}, not an object", fix)
    row = {key: value for key, value in raw.items() if value is not None}
    try:
        found = _read(where, row)
        if picture_parts(found.text)[0]:
            raise RowError(
                f"{where} has a text that begins as a problem with a picture does",
                "give the picture under 'image', and the words alone as the question",
            )
        if "image" not in row and "images" not in row:
            return found
        if pictures is None:
            raise RowError(f"{where} has a picture, and none is read here", "leave it out")
        digests = pictures_of_row(row, file.expanduser(), pictures)
        return replace(found, text=marked(digests, found.text))
    except RowError:
        raise
    except TaskError as error:
        raise RowError(f"{where}: {error.message}", error.fix) from error


def _read(where: str, row: dict[str, Any]) -> Row:
    text, worked = _question(where, row)
    check_text(text)
    answer = _reference(where, row, worked)
    for name in ("answer", "solution", "completion", "response"):
        value = row.get(name)
        if worked is None and isinstance(value, str) and "\n" in value:
            worked = value
    if worked is not None:
        check_characters(worked, "the worked answer")
    if answer is not None:
        check_characters(answer, "the answer")
        if not answer.strip():
            raise RowError(f"{where} has an empty answer", "fill it in or leave the key out")
        if len(answer) > MAX_ANSWER_CHARACTERS:
            raise RowError(
                f"{where} has an answer of {len(answer):,} characters, more than "
                f"{MAX_ANSWER_CHARACTERS:,}",
                "give the final answer alone",
            )
    return Row(text, answer, worked, where)


def _question(where: str, row: dict[str, Any]) -> tuple[str, str | None]:
    """The problem's text, and a worked answer where it comes with it."""
    for name in ("question", "problem", "prompt"):
        value = row.get(name)
        if isinstance(value, str):
            worked = row.get("completion") if name == "prompt" else None
            return value, worked if isinstance(worked, str) else None
    for name in ("messages", "prompt"):
        if isinstance(row.get(name), list):
            text, worked = _chat(where, name, row[name])
            completion = row.get("completion")
            if isinstance(completion, list):
                said = [m.get("content") for m in completion if isinstance(m, dict)]
                worked = next((c for c in reversed(said) if isinstance(c, str)), worked)
            return text, worked or (completion if isinstance(completion, str) else None)
    near = next((n for k in row for n in difflib.get_close_matches(str(k), QUESTIONS, 1, 0.7)), "")
    raise RowError(
        f"{where} has no 'question' or 'problem' text (keys: {sorted(map(str, row))[:6]})",
        f"did you mean {near!r}?" if near else f"name the question one of {', '.join(QUESTIONS)}",
    )


def _chat(where: str, name: str, messages: list[Any]) -> tuple[str, str | None]:
    """One user's message, and what the assistant says to it; a system message is a prompt's."""
    said: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    for number, message in enumerate(messages, 1):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in said or not isinstance(content, str):
            raise RowError(
                f"{where}: message {number} of {name!r} is no text of system, user or assistant "
                f"(role {role!r})",
                'write {"role": "user", "content": "..."}',
            )
        said[role].append(content)
    if len(said["user"]) != 1:
        raise RowError(
            f"{where} has {len(said['user'])} user messages in {name!r}",
            "give one question a row",
        )
    return said["user"][0], said["assistant"][-1] if said["assistant"] else None


def _reference(where: str, row: dict[str, Any], worked: str | None) -> str | None:
    rule = row.get("reward_model")
    if isinstance(rule, dict) and rule.get("ground_truth") is not None:
        return _as_text(where, "reward_model.ground_truth", rule["ground_truth"])
    if "final_answer" in row:
        return _as_text(where, "final_answer", row["final_answer"])
    if "answer" in row:
        answer = _as_text(where, "answer", row["answer"])
        return (
            _gsm8k(where, answer)
            if "question" in row and isinstance(row["answer"], str)
            else answer
        )
    if "solution" in row:
        solution = _as_text(where, "solution", row["solution"])
        found = boxed(solution) or final_answer(solution)
        if found is None:
            raise RowError(
                f"{where} has a solution without a final answer: {solution[-60:]!r}",
                r"end it with \boxed{...}, or add the key 'answer'",
            )
        return found
    return None if worked is None else final_answer(worked[-MAX_ANSWER_CHARACTERS:])


def _gsm8k(where: str, answer: str) -> str:
    """The line behind `####`; a short line without one is the answer itself."""
    is_line = "\n" not in answer.strip() and "####" not in answer
    if not answer.strip() or (is_line and len(answer) <= SHORT):
        return answer
    found = final_answer(answer[-MAX_ANSWER_CHARACTERS:])
    if found is not None:
        return found
    said = answer.rpartition("####")[2].strip() if "####" in answer else ""
    if said and "\n" not in said:
        return said  # it looks like a heading, but it is what the row says
    raise RowError(
        f"{where} has an answer without a final line '#### ...': {answer[-60:]!r}",
        "end the answer with '#### ' and the value, or use the key 'problem'",
    )


def _as_text(where: str, key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value != value:
        raise RowError(f"{where} has {key!r} NaN", "leave the cell empty, or write a value")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise RowError(
            f"{where} has {key!r} {value!r} of type {type(value).__name__}",
            f'make it a text, such as "{str(value).lower()}"',
        )
    if isinstance(value, int):
        return str(value)
    if not value.is_finite() or abs(value.adjusted()) > MAX_EXPONENT:
        raise RowError(
            f"{where} has {key!r} {value}, which is no number here", "write it as a text"
        )
    return format(value, "f")


def keys_of(rows: Iterable[Row], key: Callable[[str], str]) -> frozenset[str]:
    return frozenset(key(row.text) for row in rows)
