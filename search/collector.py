"""Python's collector of cycles while trees grow.

Every node is known by its parent and knows it, so trees are cycles that live as long as their
search; the collector walks all of them each time that a few hundred objects were made. With a
thousand trees that took half of the time (LOG.md). So it is asked less often, not never: what fails
on the way leaves cycles, too.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RARELY = (50_000, 20, 100)
"""Objects made before the youngest are walked, and of these walks before the older ones are."""

_lock = threading.Lock()
_depth = 0
_before = gc.get_threshold()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Less often for as long as the block, in all threads that run searches; as before at the end
    of the last one."""
    global _depth, _before
    with _lock:
        if _depth == 0:
            _before = gc.get_threshold()
            gc.set_threshold(*RARELY)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                gc.set_threshold(*_before)
