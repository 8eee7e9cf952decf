"""A question answered by a process of its own, with a bound on time and memory.

Libraries of symbolic mathematics raise inside threads and have no safe bound on what a question
may cost; a child process that is killed has both.
"""

import contextlib
import multiprocessing
import resource
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 5.0
START_TIMEOUT_S = 60.0
"""For the first question, which waits for imports."""
MEMORY_BYTES = 2 * 2**30


def serve(pipe: Connection, answer: Callable[[Any], Any], memory_bytes: int) -> None:
    """Answer questions until the other side is gone. Any failure is the answer None."""
    with contextlib.suppress(ValueError, OSError):  # a lower bound may already be set
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    while True:
        try:
            question = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            found = answer(question)
        except Exception:
            found = None
        pipe.send(found)


class Killable:
    """Asks a function in a child process; None when it failed, took too long or too much."""

    def __init__(
        self,
        answer: Callable[[Any], Any],
        timeout_s: float | None = None,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`answer` is a module's function: the child imports it."""
        self.answer = answer
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._is_warm = False

    def ask(self, question: Any) -> Any:
        with self._lock:
            if self._process is None or not self._process.is_alive():
                self._start()
            assert self._pipe is not None
            limit = TIMEOUT_S if self.timeout_s is None else self.timeout_s
            try:
                self._pipe.send(question)
                if self._pipe.poll(limit if self._is_warm else START_TIMEOUT_S):
                    found = self._pipe.recv()
                    self._is_warm = True
                    return found
            except (EOFError, OSError):
                pass
            self.close()
            return None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(
            target=serve, args=(child, self.answer, self.memory_bytes), daemon=True
        )
        self._process.start()
        child.close()
        self._is_warm = False

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
