"""Steps captured in CUDA graphs, and replayed: hundreds of small kernels for one launch.

To launch them one by one costs five times what they do. A graph holds the addresses of everything
it touches, so its owner drops it when a tensor moves; its inputs are buffers that are filled before
each replay. A step that cannot be captured runs as it is, and the engine says so.

Source: NVIDIA, "CUDA graphs", CUDA C++ programming guide. Sizes in buckets, the rest padding, are
usual in serving (vLLM, SGLang).
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

from agent.engine.memory import is_out_of_memory

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

    def __init__(self, device: torch.device, can_capture: bool) -> None:
        """`can_capture` says whether steps there read nothing back from the device."""
        self.device = device
        self.is_captured = device.type == "cuda" and can_capture
        """Whether steps are captured; no longer, once one could not be."""
        self.kept: dict[Hashable, Any] = {}
        self.buffers: dict[Hashable, Any] = {}
        """Inputs and outputs of steps, for those who keep theirs here."""
        self._pool: Any = None

    def drop(self) -> None:
        """Forget all graphs: something that they touch has moved. A pool without graphs cannot be
        used again."""
        self.kept.clear()
        self.buffers.clear()
        self._pool = None

    def of(self, key: Hashable, fill: Callable[[], None], step: Step) -> Step:
        """What does `step` on the inputs that `fill` has set, as a graph where that can be.

        Before a capture the step runs once, which compiles its kernels; what it writes to the cache
        it writes again when it is run. Raises what the step itself raises when memory runs out.
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
            if is_out_of_memory(error):  # smaller batches may have room
                raise
            self.is_captured = False
            why = str(error).splitlines()[0]
            log.warning("this engine goes on without CUDA graphs, slower: %s", why)
            return None

    def _capture(self, step: Step) -> Any:
        # Not by torch.cuda.graph: that collects garbage and empties the cache of memory each time,
        # all threads share its stream, and after an error a thread is left on it.
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        here, aside = torch.cuda.current_stream(), _stream_of(self.device)
        aside.wait_stream(here)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(aside):
                step()
                aside.synchronize()
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    step()
                except BaseException:
                    self._give_up(graph)
                    raise
                graph.capture_end()
        finally:
            here.wait_stream(aside)
        return graph

    def _give_up(self, graph: Any) -> None:
        """End a capture that failed. Where torch cannot, its allocator would go on as if it were
        under way, and never give memory back."""
        try:
            graph.capture_end()
        except RuntimeError:
            with contextlib.suppress(Exception):
                torch._C._cuda_endAllocateToPool(self.device.index or 0, self._pool)


_STREAMS: dict[torch.device, Any] = {}
"""One to capture on for each device: memory is kept by the stream that it was used on."""


def _stream_of(device: torch.device) -> Any:
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    return _STREAMS[device]
