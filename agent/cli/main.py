"""The entry of `ratchet`: arguments in, an exit code out, every error a message and a fix."""

import logging
import os
import sys
from itertools import pairwise

from typer.exceptions import TyperException

from agent import signals
from agent.cli import streams
from agent.cli.app import app
from agent.cli.failures import print_traceback, report, told
from search.errors import RatchetError, UsageError
from store.masking import masked


def main() -> None:
    """Run the command of sys.argv. Raises SystemExit with its code, 0 left out."""
    streams.prepare()
    signals.install()
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Masking("%(levelname)s %(name)s: %(message)s"))
    arguments = sys.argv[1:]
    wants_json = "--json" in arguments
    is_debugging = os.environ.get("RATCHET_DEBUG") == "1" or "--debug" in arguments
    try:
        arguments = [_as_text(argument) for argument in arguments]
        _hide_secrets()
        code = app([a for a in arguments if a != "--debug"], "ratchet", standalone_mode=False)
        _end_if_stopped()
        sys.stdout.flush()
        if code:
            raise SystemExit(code)
    except KeyboardInterrupt:
        signals.end()
    except SystemExit as ended:
        _end_if_stopped()
        if (lost := _lost_output()) is None:
            raise
        if lost.message:
            report(lost, wants_json)
        raise SystemExit(ended.code or lost.exit_code) from None
    except BaseException as error:  # a panic of a library in Rust is no Exception
        _end_if_stopped()
        is_usage = isinstance(error, TyperException)
        found = _usage_error(error, arguments) if isinstance(error, TyperException) else told(error)
        _lost_output()
        if found.message:  # else the parser has shown its help
            report(found, wants_json)
        if is_debugging and not is_usage:
            print_traceback()
        raise SystemExit(found.exit_code) from None


def _hide_secrets() -> None:
    """What lists processes and clusters shows arguments: no password stays there."""
    hidden = [masked(argument) for argument in sys.argv]
    if hidden != sys.argv:
        import setproctitle

        setproctitle.setproctitle(" ".join(hidden).replace("\0", ""))
        sys.argv[:] = hidden


def _as_text(argument: str) -> str:
    """In an ASCII locale Python does not decode what is UTF-8 all the same."""
    try:
        return os.fsencode(argument).decode()
    except UnicodeError as error:
        raise UsageError(
            f"the argument {argument[:80]!r} is not UTF-8", "write it in UTF-8"
        ) from error


def _end_if_stopped() -> None:
    """An interrupted call may come back as any other error, or as none."""
    if signals.code():
        signals.end()


def _lost_output() -> RatchetError | None:
    """Why what was printed has not reached where it should go; None when it has."""
    try:
        sys.stdout.flush()
    except RatchetError as error:
        return error
    return None


def _usage_error(error: TyperException, arguments: list[str]) -> UsageError:
    """What the option parser refused, with the value that was given."""
    message = str(getattr(error, "format_message", lambda: "")()).rstrip(".")
    options = getattr(getattr(error, "param", None), "opts", ())
    given = [v for name, v in pairwise(arguments) if name in options]
    value = f" (given: {given[-1]!r})" if given else ""
    path = getattr(getattr(error, "ctx", None), "command_path", "ratchet")
    return UsageError(message and message + value, f"see `{path} --help`")


class _Masking(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))
