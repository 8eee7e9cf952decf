"""A question answered by a process of its own, with a bound on time and memory.

Libraries of symbolic mathematics raise inside threads and have no safe bound on what a question
may cost; a child process that is killed has both. A child is warmed up before it is asked, so the
bound is on the question alone; the one that follows a killed child warms up at once.
"""

import contextlib
import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from search.errors import ToolError

TIMEOUT_S = 5.0
"""For a question."""
START_TIMEOUT_S = 60.0
"""For a child's start and its imports."""
ALARM_AFTER_S = 2.0
"""A child whose parent was killed is ended by the kernel so long after its limit."""
MEMORY_BYTES = 2 * 2**30


def serve(pipe: Connection, answer: Callable[[Any], Any], example: Any, memory_bytes: int) -> None:
    """Answer questions until the other side is gone. Any failure is the answer None.

    The example is answered first, for the imports that it needs. The kernel ends a child whose
    parent can no longer do it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with contextlib.suppress(ValueError, OSError):  # a lower bound may already be set
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answer(example)
    pipe.send(True)
    while True:
        try:
            limit_s, question = pipe.recv()
        except (EOFError, OSError):
            return
        signal.setitimer(signal.ITIMER_REAL, limit_s + ALARM_AFTER_S)
        try:
            found = answer(question)
        except Exception:
            found = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        pipe.send(found)


class Killable:
    """Asks a function in a child process; None when it failed, took too long or too much."""

    def __init__(
        self,
        answer: Callable[[Any], Any],
        example: Any,
        timeout_s: float | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`answer` is a module's function: the child imports it, and answers `example` first."""
        self.answer = answer
        self.example = example
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._is_warm = False

    def ask(self, question: Any) -> Any:
        """The answer. Raises ToolError when the child cannot be started."""
        with self._lock:
            if self._process is None or not self._process.is_alive():
                self._start()
            self._await_start()
            assert self._pipe is not None
            limit = TIMEOUT_S if self.timeout_s is None else self.timeout_s
            try:
                self._pipe.send((limit, question))
                if self._pipe.poll(limit):
                    return self._pipe.recv()
            except (EOFError, OSError):
                pass
            self.close()
            self._start()
            return None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(
            target=serve, args=(child, self.answer, self.example, self.memory_bytes), daemon=True
        )
        self._is_warm = False
        try:
            self._process.start()
        except OSError as error:
            self._process = None
            raise ToolError(
                f"the process that checks answers cannot start: {error}",
                "free some memory or processes, and run the same command again",
            ) from error
        finally:
            child.close()

    def _await_start(self) -> None:
        assert self._pipe is not None and self._process is not None
        if self._is_warm:
            return
        with contextlib.suppress(EOFError, OSError):
            if self._pipe.poll(START_TIMEOUT_S):
                self._is_warm = self._pipe.recv() is True
        if not self._is_warm:
            self._process.join(1.0)
            code = self._process.exitcode
            self.close()
            name = f"{self.answer.__module__}.{self.answer.__qualname__}"
            how = f"ended with {code}" if code is not None else f"took over {START_TIMEOUT_S:g} s"
            raise ToolError(
                f"the process that answers {name} cannot start: it {how}",
                'see what it printed; a script of yours needs `if __name__ == "__main__":`',
            )

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
