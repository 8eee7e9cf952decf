"""How the small cases on answers, steps, votes and rows are asked: one call a case.

`tests/critics/cases/judging.jsonl` holds our own; each has a kind, a call, its arguments and what
is right (`want`; for a step a list of what may be said).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.evaluation.answering import voted
from agent.tasks.jsonl import Files, Jsonl
from search.errors import TaskError

OWN = Path(__file__).parent / "cases/judging.jsonl"
Case = dict[str, Any]


def cases(path: Path) -> list[Case]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def opened(folder: Path, text: str) -> Jsonl:
    file = folder / "rows.jsonl"
    file.write_text(text, encoding="utf-8")
    return Jsonl(Files(str(file)))


def is_right(case: Case, task: Jsonl, folder: Path) -> bool:
    """Whether a case comes out as it should; `task` is any task of rows."""
    return _CALLS[case["call"]](case, task, folder)


def _check_step(case: Case, task: Jsonl, folder: Path) -> bool:
    return task.check_step("", [case["step"] + "\n"]).is_sound in case["want"]


def _is_correct(case: Case, task: Jsonl, folder: Path) -> bool:
    answer = task.answer_of([case["text"]])
    return task.is_correct(answer, case["reference"]) is case["want"]


def _answer_of(case: Case, task: Jsonl, folder: Path) -> bool:
    return task.answer_of([case["text"]]) == case["want"]


def _majority(case: Case, task: Jsonl, folder: Path) -> bool:
    answers = [task.answer_of([text]) for text in case["texts"]]
    return voted(answers, [1.0] * len(answers), task.same_answer) == case["want"]


def _row(case: Case, task: Jsonl, folder: Path) -> bool:
    return _read(case, "".join(_lines(case)), folder)


def _lines(case: Case) -> Iterator[str]:
    if case["call"] == "row_text":
        yield case["text"] + "\n"
        return
    for row in case.get("rows") or [case["row"]]:
        yield json.dumps(row) + "\n"


def _read(case: Case, text: str, folder: Path) -> bool:
    try:
        rows = opened(folder, text).rows
    except TaskError as error:
        places = ["line 1"] if case["want"].startswith("error") else ["line 1", "line 2"]
        named = all(place in error.message for place in ("rows.jsonl", *places))
        return named and bool(error.fix) and not case["want"].startswith("reference")
    wanted = case["want"].removeprefix("reference equals ")
    return wanted != case["want"] and rows[0].answer == wanted and len(rows) == 1


_CALLS: dict[str, Callable[[Case, Jsonl, Path], bool]] = {
    "check_step": _check_step,
    "is_correct": _is_correct,
    "answer_of": _answer_of,
    "majority": _majority,
    "row": _row,
    "row_text": _row,
    "rows": _row,
}
