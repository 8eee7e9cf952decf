"""Printing: tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from agent.visible import shown, visible
from store.evaluations import Evaluation

SCHEMA_VERSION = 1
"""Of what `--json` prints (docs/json.md); raised when a key changes its meaning or goes."""


def emit(document: Any) -> None:
    """One JSON document on stdout: an object with its schema version; a list is its `rows`."""
    whole = {"rows": document} if isinstance(document, list) else dict(document)
    json.dump({"schema_version": SCHEMA_VERSION} | whole, sys.stdout, indent=2, default=str)
    print()


def table(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Rows as a table on stdout; plain tab-separated text when stdout is no terminal."""
    if not rows:
        print("(nothing)", file=sys.stderr)
        return
    console = Console()
    names = list(rows[0])
    if not console.is_terminal:
        print("\t".join(names))
        for row in rows:
            print("\t".join(_one_line(row[name]) for name in names))
        return
    cells = [[text(row[name]) for name in names] for row in rows]
    columns = zip(names, zip(*cells, strict=True), strict=True)
    widths = [max(map(cell_len, [name, *column])) for name, column in columns]
    if sum(widths) + 3 * len(names) + 1 > console.width:
        _records(console, names, cells, title)
        return
    grid = Table(title=title or None, title_justify="left")
    for name in names:
        grid.add_column(name)
    for row_cells in cells:
        grid.add_row(*map(shown, row_cells))
    console.print(grid)


def _records(
    console: Console, names: Sequence[str], cells: Sequence[Sequence[str]], title: str
) -> None:
    """A row below the other where a table is wider than the screen: no word is broken."""
    if title:
        console.print(title)
    left = max(map(cell_len, names))
    for row in cells:
        console.rule(style="dim")
        for name, value in zip(names, row, strict=True):
            grid = Table.grid(padding=(0, 2))
            grid.add_column(width=left, style="dim")
            grid.add_column()
            grid.add_row(name, shown(value))
            console.print(grid)


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _one_line(value: Any) -> str:
    return visible(text(value).replace("\n", "\\n").replace("\t", "\\t"))


def share(num: int, n: int, low: float, high: float) -> str:
    """`37.2 % [33.4, 41.1]`"""
    return f"{100 * num / n if n else 0:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def figures(found: Evaluation | None) -> dict[str, Any] | None:
    """An evaluation for programs; None where nothing was measured."""
    if found is None:
        return None
    low, high = found.interval
    return {
        "n": found.n,
        "correct": found.num_correct,
        "low": low,
        "high": high,
        "unanswered": found.num_unanswered,
        "cut_by_length": found.num_cut,
        "tokens": found.num_tokens,
        "seconds": found.seconds,
    }
