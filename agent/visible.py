"""Data on a terminal: no character of it moves the cursor or changes a colour."""

import re

from rich.markup import escape

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor, colours or directions; tabs and newlines do no harm."""


def visible(text: str) -> str:
    """The text with control characters as escapes, so that no data can steer a terminal."""
    return _CONTROL.sub(lambda m: ascii(m[0])[1:-1], text)


def shown(text: str) -> str:
    """A piece of data in rich's markup: brackets and control characters mean nothing there."""
    return escape(visible(text))
