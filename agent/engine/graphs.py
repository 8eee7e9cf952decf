"""Steps captured in CUDA graphs, and replayed: hundreds of small kernels for one launch.

To launch them one by one costs five times what they do. A graph holds the addresses of everything
it touches, so its owner drops it when a tensor moves; its inputs are buffers that are filled before
each replay. A step that cannot be captured runs as it is, with a warning once.

Source: NVIDIA, "CUDA graphs", CUDA C++ programming guide. Sizes in buckets, the rest padding, are
usual in serving (vLLM, SGLang).
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
MOST_ROWS = BUCKETS[-1]
Step = Callable[[], None]
log = logging.getLogger(__name__)
_CAPTURE = threading.Lock()
"""One capture at a time: engines run in threads, and streams come from a pool that they share."""


def bucket(num_rows: int) -> int:
    """Rows to work on for so many."""
    return next((size for size in BUCKETS if size >= num_rows), num_rows)


class Graphs:
    """Of one cache."""

    def __init__(self, device: torch.device) -> None:
        self.is_captured = device.type == "cuda"
        """Whether steps are captured; no longer, once one could not be."""
        self.kept: dict[Hashable, Any] = {}
        self.buffers: dict[Hashable, Any] = {}
        """Inputs and outputs of steps, for those who keep theirs here."""
        self._pool: Any = None

    def drop(self) -> None:
        """Forget all graphs: something that they touch has moved. Their memory goes with them."""
        self.kept.clear()
        self._pool = None
        self.buffers.clear()

    def of(self, key: Hashable, fill: Callable[[], None], step: Step) -> Step:
        """What does `step` on the inputs that `fill` has set, as a graph where that can be.

        Before a capture the step runs once, which compiles its kernels; what it writes to the cache
        it writes again when it is run.
        """
        fill()
        if not self.is_captured:
            return step
        if key not in self.kept:
            graph = self._captured(step)
            fill()
            if graph is None:
                return step
            self.kept[key] = graph
        replay: Step = self.kept[key].replay
        return replay

    def _captured(self, step: Step) -> Any:
        """The step as a graph; None where it could not be captured."""
        try:
            with _CAPTURE:
                return self._capture(step)
        except RuntimeError as error:
            self.is_captured = False
            why = str(error).splitlines()[0]
            log.warning("the engine goes on without CUDA graphs, slower: %s", why)
            return None

    def _capture(self, step: Step) -> Any:
        # Not by torch.cuda.graph: that collects garbage and empties the cache of memory each time,
        # all threads share its stream, and after an error a thread is left on it.
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(aside):
            step()
            aside.synchronize()
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    graph.capture_end()
                raise
            graph.capture_end()
        here.wait_stream(aside)
        return graph
