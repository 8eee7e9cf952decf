"""Files of rows: JSONL, a JSON array, CSV, TSV, Parquet, and data sets of the Hugging Face hub.

    train.jsonl, rows.json, rows.csv, rows.parquet, hf:openai/gsm8k:main:test

Each row comes with where it stands, so that whoever refuses it can name the place. Numbers are
kept as they are written: 1e-07 stays 1e-07 and not a rounded binary fraction. CSV is read by
Python's own reader, which keeps cells as they are and knows the row that is at fault; Parquet and
the hub come through `datasets`.
"""

import csv
import json
import os
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from agent.scratch import scratch_folder
from search.errors import TaskError

TABLES = {".csv": ",", ".tsv": "\t"}
"""Separator by ending."""
HUB = "hf:"


class RowError(TaskError):
    """One row that cannot be used; the others may be."""


def rows_of(source: str) -> Iterator[tuple[str, Any]]:
    """(where, row) of each row: `FILE, line 3`, `FILE, row 3`. Raises TaskError.

    A row that cannot be read is an exception in the row's place, a RowError.
    """
    if source.startswith(HUB):
        yield from _from_hub(source)
        return
    path = _file(source)
    if path.suffix.lower() == ".parquet":
        yield from _parquet(path)
    elif path.suffix.lower() in TABLES:
        yield from _table(path, TABLES[path.suffix.lower()])
    elif path.suffix.lower() == ".json":
        yield from _array(path)
    else:
        yield from _lines(path)


def _file(source: str) -> Path:
    fix = "give a file of rows (.jsonl, .json, .csv, .tsv, .parquet), or hf:NAME[:CONFIG][:SPLIT]"
    try:
        path = Path(source).expanduser()
        if source and path.is_dir():
            raise TaskError(f"{source!r} is a folder, not a file of problems", "name a file in it")
        is_there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, nobody's home, a NUL
        raise TaskError(f"problem file {source[:200]!r} cannot be named: {error}", fix) from error
    if not is_there:
        raise TaskError(f"problem file {source!r} is not there", fix)
    return path


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if raw.strip():
                where = f"{path}, line {number}"
                try:
                    yield where, _parsed(where, raw)
                except RowError as error:
                    yield where, error


def _array(path: Path) -> Iterator[tuple[str, Any]]:
    """A JSON array of objects, or an object with one such array in it."""
    raw = path.read_bytes()
    try:
        value = _parsed(str(path), raw)
    except RowError as error:
        if raw.lstrip()[:1] == b"{":  # JSONL under the other name
            yield from _lines(path)
            return
        raise TaskError(error.message, "write [{...}, {...}], or one object a line") from error
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise TaskError(f"{path} is a {type(value).__name__}, not an array", "write [{...}, ...]")
    for number, row in enumerate(value, 1):
        yield f"{path}, row {number}", row


def _parsed(where: str, raw: bytes) -> Any:
    def refuse(name: str) -> Any:
        raise ValueError(f"{name} is no JSON number")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} stands there twice")
        return dict(pairs)

    try:
        text = raw.decode("utf-8-sig")
        return json.loads(text, parse_float=Decimal, parse_constant=refuse, object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise RowError(f"{where} is not UTF-8: {error}", "save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise RowError(
            f"{where} is not JSON: {error.msg} at column {error.colno}",
            "write one JSON object a line",
        ) from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise RowError(f"{where} is not JSON: {error}", "write one JSON object a line") from error


def _table(path: Path, separator: str) -> Iterator[tuple[str, Any]]:
    """Rows below a header. An empty cell is null; a column without a name is passed over."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            # Quotes are ordinary characters where a tab separates.
            reader = (
                csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
                if separator == "\t"
                else csv.reader(stream, delimiter=separator, strict=True)
            )
            header: list[str] = []
            for cells in reader:
                where = f"{path}, line {reader.line_num}"
                if not any(cell.strip() for cell in cells):
                    continue
                if not header:
                    header = _header(path, cells)
                    continue
                if len(cells) != len(header):
                    cause = f"{where} has {len(cells)} cells, the header {len(header)}"
                    yield where, RowError(cause, "quote cells that hold the separator")
                    continue
                row = zip(header, cells, strict=True)
                yield where, {name: cell or None for name, cell in row if name}
    except (csv.Error, UnicodeDecodeError) as error:
        raise TaskError(
            f"{path} cannot be read as a table: {error}", "save it again as UTF-8, or write JSONL"
        ) from error


def _header(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise TaskError(f"{path} has the column {twice[0]!r} twice", "rename one of them")
    return names


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    with scratch_folder("rows") as cache:
        try:
            found = _datasets().load_dataset(
                "parquet", data_files=str(path), split="train", cache_dir=str(cache)
            )
            rows = _rows(found)
        except TaskError:
            raise
        except Exception as error:  # the library raises plain and foreign exceptions alike
            cause = " ".join(str(error.__cause__ or error).split())
            raise TaskError(
                f"{path} cannot be read as Parquet: {cause[:200]}", "save it again, or write JSONL"
            ) from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _rows(found: Any) -> list[dict[str, Any]]:
    kinds = {name: str(getattr(kind, "dtype", "")) for name, kind in found.features.items()}
    return [{name: _plain(value, kinds[name]) for name, value in row.items()} for row in found]


def _from_hub(source: str) -> Iterator[tuple[str, Any]]:
    """hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT."""
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:
        raise TaskError(f"{source!r} is no data set", "write hf:NAME, or hf:NAME:CONFIG:SPLIT")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        found = _datasets().load_dataset(name, config, split=split)
        rows = _rows(found)
    except TaskError:
        raise
    except Exception as error:  # of the network, of the hub, of the library
        raise TaskError(
            f"{source} cannot be fetched: {type(error).__name__}: {str(error)[:200]}",
            "check name, config and split, or download the file and give its path",
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"{source}, row {number}", row


def _datasets() -> Any:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import datasets
    except ImportError as error:
        raise TaskError(
            "this file is read through `datasets`, which is not installed",
            "pip install 'ratchet-llm[trl]', or write JSONL",
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _plain(value: Any, kind: str = "") -> Any:
    """Binary fractions as their shortest decimal, of the width that the column has."""
    if isinstance(value, float):
        if value != value:
            return float("nan")
        return Decimal(str(np.float32(value)) if kind in ("float32", "float16") else repr(value))
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value
