"""What a signal does: the first one ends the work in order, a second one ends the process."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
MESSAGE = "\nStopped; what was committed is saved. Run the same command to go on.\n"


class Stopped(KeyboardInterrupt):
    """The first signal. A KeyboardInterrupt, for that is what C code (Ray's, torch's) passes on."""


_first = 0
_is_over = False


def install() -> None:
    """Take the signals over. A hang-up that is ignored (nohup) stays so."""
    for number in STOPPING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """The handlers of now come back afterwards: Ray sets its own where it starts."""
    found = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: there Ray sets none either
            for number, handler in found.items():
                signal.signal(number, handler)


def code() -> int:
    """Exit code by the first signal: 130, 143 or 129; 0 before one came."""
    return 128 + _first if _first else 0


def end() -> NoReturn:
    """Say that the work was stopped, and leave with the signal's exit code."""
    global _is_over
    _is_over = True  # a signal from here on ends the process at once
    _say()
    raise SystemExit(code() or 130)


def _stop(number: int, _: FrameType | None) -> None:
    global _first
    if _first or _is_over:
        if not _is_over:
            _say()
        _end_children()
        os._exit(128 + number)
    _first = number
    raise Stopped


def _end_children() -> None:
    """Local Ray and killable children: nobody is left to end them in order."""
    import psutil

    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def _say() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.write(2, MESSAGE.encode())
