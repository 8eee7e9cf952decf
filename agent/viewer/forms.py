"""How values look on a page."""

import datetime
from typing import Any

SHORT = 160
"""Characters of a text in a list."""


def short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def when(micro: int | None) -> str:
    if not micro:
        return "-"
    at = datetime.datetime.fromtimestamp(micro / 1e6, datetime.UTC)
    return at.strftime("%Y-%m-%d %H:%M UTC")


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " to ".join(cell(v) for v in value)
    return str(value)[:2_000]
