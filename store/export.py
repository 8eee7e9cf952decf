"""Training sets as files that others read: TRL's shapes, and verl's for reinforcement learning.

| kind | a row |
| --- | --- |
| sft | prompt, completion; with pictures both as messages, and images (paths) |
| dpo | prompt (with the steps so far), chosen, rejected, margin |
| kto | prompt, completion, label |
| prm | prompt, completions (steps), labels |
| value | prompt, completion (steps so far), value (the last step's Q) |
| rl | data_source, prompt (messages), ability, reward_model, extra_info |
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.candidates import SameAnswer, is_among
from search.errors import UsageError
from store.disks import unwritable
from store.names import check_round
from store.schema import DatasetItem, DatasetRow, ProblemRow, Round, Run, TrajectoryRow

KINDS = ("sft", "dpo", "kto", "prm", "value", "rl")
PromptOf = Callable[[str], str]
"""What the policy is given for a problem."""


@dataclass(frozen=True, slots=True)
class Wording:
    """What an export asks of the task."""

    prompt_of: PromptOf
    same: SameAnswer = eq
    """Whether two answers are equal."""
    file_of: Callable[[str], str] = str
    """The file of a picture, by its digest."""


RowMaker = Callable[[Session, int, Wording], Iterator[dict[str, Any]]]


def datasets_of(session: Session, run: str, round_number: int | None) -> list[int]:
    """Ids of a run's frozen datasets, oldest first. Raises NotFoundError for an unknown run or
    round, UsageError where there is no dataset."""
    check_round(session, run, round_number)
    query = (
        select(DatasetRow.id)
        .join(Round, Round.id == DatasetRow.round_id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run)
        .order_by(Round.number)
    )
    if round_number is not None:
        query = query.where(Round.number == round_number)
    found = list(session.scalars(query))
    if not found:
        which = f"round {round_number} of run" if round_number is not None else "run"
        raise UsageError(
            f"{which} {run!r} has no dataset", "see `ratchet inspect rounds`, or give another --run"
        )
    return found


def exported(
    session: Session,
    kind: str,
    datasets: list[int],
    prompt_of: PromptOf,
    same: SameAnswer = eq,
    file_of: Callable[[str], str] = str,
) -> Iterator[dict[str, Any]]:
    """Rows of one kind, dataset by dataset, streamed. Raises UsageError for a kind that has no form
    for the pictures that a dataset's problems come with."""
    makers: dict[str, RowMaker] = {
        "sft": _sft,
        "dpo": _dpo,
        "kto": _kto,
        "prm": _prm,
        "value": _value,
        "rl": _rl,
    }
    if kind not in makers:
        raise UsageError(f"there is no export {kind!r}", f"choose one of {', '.join(KINDS)}")
    for dataset_id in datasets:
        if kind != "sft" and _has_pictures(session, dataset_id):
            raise UsageError(
                f"export {kind!r} has no form for problems with pictures",
                "`ratchet store export sft` writes them in TRL's vision shape",
            )
        yield from makers[kind](session, dataset_id, Wording(prompt_of, same, file_of))


def _has_pictures(session: Session, dataset_id: int) -> bool:
    query = (
        select(ProblemRow.id)
        .join(TrajectoryRow, TrajectoryRow.problem_id == ProblemRow.id)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .where(DatasetItem.dataset_id == dataset_id, ProblemRow.pictures != "")
        .limit(1)
    )
    return session.scalar(query) is not None


def write_rows(rows: Iterator[dict[str, Any]], path: Path, overwrite: bool) -> int:
    """Rows to JSONL or Parquet, beside and then in place; how many there were.

    Raises UsageError for another ending, an existing file, or Parquet without pyarrow, and
    ResourceError where the file cannot be written.
    """
    if path.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"{path} is neither .jsonl nor .parquet", "end --out with one of them")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already", "give another --out, or --overwrite")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        num = _jsonl(rows, beside) if path.suffix == ".jsonl" else _parquet(rows, beside)
        os.replace(beside, path)
    except OSError as error:
        raise unwritable(path, "the rows", error, "--out") from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk it was never made
            beside.unlink(missing_ok=True)
    return num


def _jsonl(rows: Iterator[dict[str, Any]], path: Path) -> int:
    num = 0
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            num += 1
    return num


def _parquet(rows: Iterator[dict[str, Any]], path: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow", "pip install pyarrow, or write .jsonl") from error
    num, writer = 0, None
    try:
        while part := [row for _, row in zip(range(2000), rows, strict=False)]:
            table = pyarrow.Table.from_pylist(part, writer.schema if writer else None)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            num += len(part)
        if writer is None:
            parquet.write_table(pyarrow.table({}), path)
    finally:
        if writer is not None:
            writer.close()
    return num


def _kept(session: Session, dataset_id: int) -> Iterator[tuple[TrajectoryRow, ProblemRow]]:
    rows = session.execute(
        select(TrajectoryRow, ProblemRow)
        .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        .join(ProblemRow, ProblemRow.id == TrajectoryRow.problem_id)
        .where(DatasetItem.dataset_id == dataset_id)
        .order_by(DatasetItem.position)
    )
    yield from ((trajectory, problem) for trajectory, problem in rows.yield_per(500))


def _sft(session: Session, dataset_id: int, task: Wording) -> Iterator[dict[str, Any]]:
    for t, p in _kept(session, dataset_id):
        prompt, whole, pictures = task.prompt_of(p.text), _whole(t), p.pictures.split()
        if not pictures:
            yield {"prompt": prompt, "completion": whole}
            continue
        shown: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
        asked = [*shown, {"type": "text", "text": prompt}]
        yield {
            "prompt": [{"role": "user", "content": asked}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": whole}]}],
            "images": [task.file_of(digest) for digest in pictures],
        }


def _dpo(session: Session, dataset_id: int, task: Wording) -> Iterator[dict[str, Any]]:
    from store.pairs import paired_texts

    for problem, before, chosen, rejected, margin in paired_texts(session, dataset_id):
        yield {
            "prompt": task.prompt_of(problem) + before,
            "chosen": chosen,
            "rejected": rejected,
            "margin": margin,
        }


def _judged(
    session: Session, dataset_id: int, same: SameAnswer
) -> Iterator[tuple[TrajectoryRow, ProblemRow, list[str]]]:
    """Every text of the searches that a dataset took from, with those of its search that were kept.

    One that ends with the kept answer and was not kept says nothing, and is left out.
    """
    kept: dict[int, list[str]] = {}
    answers: dict[int, set[str | None]] = {}
    ids: set[int] = set()
    for t, _ in _kept(session, dataset_id):
        kept.setdefault(t.search_id, []).append(_whole(t))
        answers.setdefault(t.search_id, set()).add(t.answer)
        ids.add(t.id)
    taken = select(DatasetItem.trajectory_id).where(DatasetItem.dataset_id == dataset_id)
    searches = select(TrajectoryRow.search_id).where(TrajectoryRow.id.in_(taken))
    rows = session.execute(
        select(TrajectoryRow, ProblemRow)
        .join(ProblemRow, ProblemRow.id == TrajectoryRow.problem_id)
        .where(TrajectoryRow.search_id.in_(searches))
        .order_by(TrajectoryRow.search_id, TrajectoryRow.id)
    )
    for t, p in rows.yield_per(500):
        is_other = not is_among(t.answer, answers[t.search_id], same)
        if t.id in ids or is_other or t.is_sound is False:
            yield t, p, kept[t.search_id]


def _kto(session: Session, dataset_id: int, task: Wording) -> Iterator[dict[str, Any]]:
    for t, p, kept in _judged(session, dataset_id, task.same):
        whole = _whole(t)
        yield {"prompt": task.prompt_of(p.text), "completion": whole, "label": whole in kept}


def _prm(session: Session, dataset_id: int, task: Wording) -> Iterator[dict[str, Any]]:
    """A step is good while the text so far is the beginning of one that was kept."""
    for t, p, kept in _judged(session, dataset_id, task.same):
        steps = [step["text"] for step in t.steps["steps"]]
        beginnings = ["".join(steps[: i + 1]) for i in range(len(steps))]
        labels = [any(whole.startswith(b) for whole in kept) for b in beginnings]
        yield {"prompt": task.prompt_of(p.text), "completions": steps, "labels": labels}


def _value(session: Session, dataset_id: int, task: Wording) -> Iterator[dict[str, Any]]:
    """States of which the tree knows the visit-weighted mean of what came after them."""
    for t, p, _ in _judged(session, dataset_id, task.same):
        so_far = ""
        for step in t.steps["steps"]:
            so_far += step["text"]
            if step["q"] is not None:
                yield {"prompt": task.prompt_of(p.text), "completion": so_far, "value": step["q"]}


def _rl(session: Session, dataset_id: int, task: Wording) -> Iterator[dict[str, Any]]:
    for t, p in _kept(session, dataset_id):
        yield {
            "data_source": f"ratchet/{p.task}",
            "prompt": [{"role": "user", "content": p.text}],
            "ability": p.task,
            "reward_model": {"style": "rule", "ground_truth": p.answer or t.answer or ""},
            "extra_info": {
                "split": "train",
                "index": t.id,
                "problem": p.key,
                "search": t.search_id,
                "difficulty": p.difficulty,
                "is_reference": p.answer is not None,
            },
        }


def _whole(trajectory: TrajectoryRow) -> str:
    return "".join(step["text"] for step in trajectory.steps["steps"])
