"""Names of files and folders as people give them."""

from pathlib import Path

from search.errors import UsageError

MAX_PATH = 4_095
MAX_NAME = 255
"""Bytes of a whole path and of one name in it, as Linux takes them."""
SETTINGS = (
    *("policy", "bundle", "problems", "held_out", "labelled", "checkpoints.folder"),
    *(
        "imagination.writer",
        "imagination.judge",
        "prompt.examples",
        "prompt.template",
        "selection.reward",
        "task",
    ),
)
"""Settings that are paths, or begin with one."""


def path_of(text: str, what: str) -> Path:
    """The path of a text, `~` replaced. Raises UsageError for a text that no path can be.

    Args:
        text: as it was given.
        what: the flag or setting, for the message.
    """
    names = text.encode("utf-8", "surrogateescape").split(b"/")
    if "\0" in text:
        raise UsageError(f"{what} {text[:80]!r} has a NUL in it", "give the path of a file")
    if len(text.encode("utf-8", "surrogateescape")) > MAX_PATH or max(map(len, names)) > MAX_NAME:
        raise UsageError(
            f"{what} {text[:80]!r}... is longer than a path can be", "give a shorter path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UsageError(
            f"{what} {text!r}: nobody of that name has a home here", "write the path in full"
        ) from error
