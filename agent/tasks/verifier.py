"""math-verify in a process of its own, which is killed when it takes too long.

The library raises inside threads and has no safe bound on time there; a child process has both.
"""

import multiprocessing
import threading
from multiprocessing.connection import Connection

TIMEOUT_S = 5.0


def _serve(pipe: Connection) -> None:
    from math_verify import parse, verify

    while True:
        left, right = pipe.recv()
        try:
            pipe.send(
                bool(
                    verify(
                        parse(f"${left}$", parsing_timeout=None),
                        parse(f"${right}$", parsing_timeout=None),
                        timeout_seconds=None,
                    )
                )
            )
        except Exception:  # any failure of the library means: not shown to be equal
            pipe.send(False)


class Verifier:
    """Compares two mathematical answers. A question that takes too long counts as not equal."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self.num_timeouts = 0

    def is_equal(self, left: str, right: str) -> bool:
        with self._lock:
            if self._process is None or not self._process.is_alive():
                self._start()
            assert self._pipe is not None
            try:
                self._pipe.send((right, left))
                if self._pipe.poll(TIMEOUT_S if self.is_warm else 60.0):
                    self.is_warm = True
                    return bool(self._pipe.recv())
            except (EOFError, OSError):
                pass
            self.num_timeouts += 1
            self.close()
            return False

    is_warm = False

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child,), daemon=True)
        self._process.start()
        child.close()
        self.is_warm = False

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
