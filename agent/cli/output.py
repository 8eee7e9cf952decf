"""Printing: tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def emit(document: Any) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, indent=2, default=str)
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
            print("\t".join(text(row[name]).replace("\n", "\\n") for name in names))
        return
    grid = Table(title=title or None, title_justify="left")
    for name in names:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(escape(text(row[name])) for name in names))
    console.print(grid)


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def share(num: int, n: int, low: float, high: float) -> str:
    """`37.2 % [33.4, 41.1]`"""
    return f"{100 * num / n if n else 0:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
