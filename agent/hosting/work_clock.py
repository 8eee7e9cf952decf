"""Seconds that a host is at work: what is left of a stage is somebody else's."""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class WorkClock:
    """Counts one call at a time; of calls within a call the outer one."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began: float | None = None

    @property
    def seconds(self) -> float:
        """Until now, the call under way among them."""
        began = self._began
        return self._seconds + (0.0 if began is None else time.monotonic() - began)


def at_work(method: F) -> F:
    """A method of somebody with a `clock`, whose seconds count there."""

    @functools.wraps(method)
    def run(self: Any, *given: Any, **named: Any) -> Any:
        clock: WorkClock = self.clock
        if clock._began is not None:
            return method(self, *given, **named)
        clock._began = time.monotonic()
        try:
            return method(self, *given, **named)
        finally:
            clock._seconds += time.monotonic() - clock._began
            clock._began = None

    return cast(F, run)
