"""Errors as people see them: a message, the way out, and for what nobody foresaw a report."""

import contextlib
import errno
import json
import os
import platform
import sys
import traceback
import uuid
from pathlib import Path

from rich.console import Console

from agent.rounds.code_version import code_version
from agent.visible import shown, visible
from search.errors import RatchetError, ResourceError, UsageError
from store.masking import masked

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MAX_MESSAGE = 2_000
"""Characters of a message: a value that was given may be longer than a screen."""


class UnforeseenError(RatchetError):
    """What no part of the program expected; its traceback is in a file."""


def told(error: BaseException) -> RatchetError:
    """Any error in our words."""
    if isinstance(error, RatchetError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError(
            "memory is used up", "lower search.simulations, hosting.cohort or hosting.batch_rows"
        )
    if isinstance(error, RecursionError):
        return UsageError("a value is nested too deeply", "give it with fewer brackets")
    if isinstance(error, OSError) and error.errno is not None:
        return _told_system(error)
    return _unforeseen(error)


def _told_system(error: OSError) -> RatchetError:
    where = f" {error.filename}" if error.filename else ""
    cause = f"{error.strerror or error}"
    if error.errno in NO_ROOM:
        return ResourceError(
            f"there is no room to write{where}: {cause}",
            "free some space and run the same command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(
            f"no permission for{where}: {cause}", "give another place, or change its permissions"
        )
    return ResourceError(
        f"the system refused{where}: {cause}", "correct that, then run the same command again"
    )


def _unforeseen(error: BaseException) -> UnforeseenError:
    number = uuid.uuid4().hex[:8]
    file = _written(number, error)
    where = f"; {file} has the whole of it" if file else ""
    return UnforeseenError(
        f"something that was not foreseen (report {number}): {type(error).__name__}: {error}",
        f"--debug prints where it happened{where}",
    )


def _written(number: str, error: BaseException) -> Path | None:
    """A file with traceback, versions and arguments, without secrets; None where none can be."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local/state")
    file = Path(home) / "ratchet" / f"report-{number}.txt"
    lines = [
        f"report {number}, ratchet {code_version()}, Python {platform.python_version()}",
        f"arguments: {sys.argv[1:]!r}",
        "".join(traceback.format_exception(error)),
    ]
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(masked("\n".join(lines)).encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError):
        return None
    return file


def report(error: RatchetError, as_json: bool) -> None:
    """What went wrong, and the way out, on stderr."""
    message, fix = (_short(masked(text)) for text in (error.message, error.fix))
    # Where nobody can be told, the exit code still says it.
    with contextlib.suppress(OSError, ValueError):
        if as_json:
            document = {"error": {"code": type(error).__name__, "message": message, "next": fix}}
            print(json.dumps(document), file=sys.stderr)
        else:
            console = Console(stderr=True, soft_wrap=True, highlight=False)
            console.print(f"[red]Error:[/] {shown(message)}")
            if fix:
                console.print(f"[bold]Fix:[/] {shown(fix)}")
        sys.stderr.flush()


def print_traceback() -> None:
    """Of the error being handled, for --debug."""
    print(visible(masked(traceback.format_exc())), file=sys.stderr)


def _short(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ... ({len(text):,} long)"
