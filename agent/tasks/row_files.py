"""Files of rows: JSONL, a JSON array, Parquet, CSV, TSV, and data sets of the Hugging Face hub.

    train.jsonl, rows.json, rows.parquet, rows.csv, hf:openai/gsm8k:main:test

Each row comes with where it stands, so that whoever refuses it can name the place. Numbers are
kept as they are written: 1e-07 stays 1e-07 and not a rounded binary fraction.
"""

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from search.errors import TaskError

COLUMNAR = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
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
    path = Path(source).expanduser()
    if path.is_dir():
        raise TaskError(f"{source!r} is a folder, not a file of problems", "name a file in it")
    if not path.is_file():
        raise TaskError(
            f"problem file {source!r} is not there",
            "give a file of rows (.jsonl, .json, .csv, .parquet), or hf:NAME[:CONFIG][:SPLIT]",
        )
    if path.suffix.lower() in COLUMNAR:
        yield from _columnar(path)
    elif path.suffix.lower() == ".json":
        yield from _array(path)
    else:
        yield from _lines(path)


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

    try:
        text = raw.decode("utf-8-sig")
        return json.loads(text, parse_float=Decimal, parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise RowError(f"{where} is not UTF-8: {error}", "save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise RowError(f"{where} is not JSON: {error}", "write one JSON object a line") from error


def _columnar(path: Path) -> Iterator[tuple[str, Any]]:
    kind = COLUMNAR[path.suffix.lower()]
    extra: dict[str, Any] = {"sep": "\t"} if path.suffix.lower() == ".tsv" else {}
    with tempfile.TemporaryDirectory(prefix="ratchet-rows-") as cache:
        try:
            datasets = _datasets()
            if kind == "csv":  # cells as they are written: 2 is not 2.0
                names = _header(path, extra.get("sep", ","))
                extra["features"] = datasets.Features({n: datasets.Value("string") for n in names})
            found = datasets.load_dataset(
                kind, data_files=str(path), split="train", cache_dir=cache, **extra
            )
            rows = [_plain(row) for row in found]
        except TaskError:
            raise
        except Exception as error:  # the library raises plain and foreign exceptions alike
            cause = error.__cause__ or error
            raise TaskError(
                f"{path} cannot be read as {kind}: {str(cause)[:200]}",
                "save it again, or write JSONL",
            ) from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _header(path: Path, separator: str) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return next(csv.reader(stream, delimiter=separator), [])


def _from_hub(source: str) -> Iterator[tuple[str, Any]]:
    """hf:NAME, hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT."""
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:
        raise TaskError(f"{source!r} is no data set", "write hf:NAME, or hf:NAME:CONFIG:SPLIT")
    split = rest[-1] if rest else "train"
    config = rest[0] if len(rest) == 2 else None
    try:
        found = _datasets().load_dataset(name, config, split=split)
        rows = [_plain(row) for row in found]
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


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Numbers of a column as their shortest decimal; a missing cell is null."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, float):
            is_missing = value != value
            found[key] = None if is_missing else Decimal(repr(value))
        else:
            found[key] = value
    return found
