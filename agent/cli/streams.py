"""Standard input, output and error: whole and readable in every locale."""

import contextlib
import errno
import io
import os
import sys

from search.errors import RatchetError, ResourceError, UsageError

MAX_INPUT = 1_000_000
"""Characters of a question from standard input."""


def prepare() -> None:
    """Before anything else: the three streams exist, and no character of a text is one too many."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if type(sys.stdin) is io.TextIOWrapper and sys.stdin.errors == "surrogateescape":
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")  # an ASCII locale
    if type(sys.stderr) is io.TextIOWrapper:  # else a test's own
        sys.stderr.reconfigure(errors="backslashreplace")
    if type(sys.stdout) is io.TextIOWrapper:
        encoding, is_line_wise = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = Output(
            sys.stdout.detach(),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=is_line_wise,
        )


def standard_input() -> str:
    """What a pipe brings. Raises UsageError for what is no text, or too long for a question."""
    try:
        text = sys.stdin.read(MAX_INPUT + 1)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"standard input cannot be read: {error}", "give the question as UTF-8 text"
        ) from error
    if len(text) > MAX_INPUT:
        raise UsageError(
            f"standard input has over {MAX_INPUT:,} characters", "ask a shorter question"
        )
    if not text.strip():
        raise UsageError("standard input is empty", "give the question, as in `echo 1+1 | ...`")
    return text


class PipeClosedError(RatchetError):
    """Who read the output has gone: nothing is said, for nobody is wrong."""

    exit_code = 141
    """128 + SIGPIPE."""


class Output(io.TextIOWrapper):
    """Standard output that says, in our words, that it cannot be written."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _lost(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _lost(error) from error


def _lost(error: OSError) -> RatchetError:
    # Nothing more goes there: not what is buffered, and not at the end of the process.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if error.errno == errno.EPIPE:
        return PipeClosedError("")
    return ResourceError(
        f"standard output cannot be written: {error.strerror or error}",
        "free some space, or print to another place",
    )
