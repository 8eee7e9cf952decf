"""Keys and values of the jobs under way, one tensor [jobs, columns, 2 G, D] a layer. On a GPU all
layers are one tensor, so that jobs are copied in one operation instead of one a layer.

A job's columns only grow: each fed token takes the next one, and what a token may see is said by
the bias of the forward, not by where it lies. So several continuations of one text share its
columns, and a rejected draft is taken back by not counting it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.engine.graphs import Graphs
from agent.engine.memory import return_freed
from agent.networks.inference import InferenceNetwork

Ids = NDArray[np.int64]
FIRST_COLUMNS = 32
"""To begin with, on a CPU."""
GPU_COLUMNS = 256
"""To begin with, on a GPU."""
MOST_JOBS = 512
"""That room is made for before they come."""
EXPECTED_BYTES = 2**25
"""Reserved ahead on a CPU."""
KEPT_BYTES = 2**28
"""Kept between calls on a CPU."""
GPU_SHARE = 16
"""On a GPU this part of its memory is reserved ahead: a cache that moves costs new graphs."""
GPU_KEPT = 4
"""Times as much of it is kept between calls."""
WIDTH = 16
"""Columns are seen in multiples of this."""
BLOCK = 512
"""Columns that torch's CPU attention multiplies at once."""


class Cache:
    def __init__(
        self,
        network: InferenceNetwork,
        has_room_ahead: bool = True,
        has_even_blocks: bool = True,
    ) -> None:
        """`has_room_ahead` is for a cache that is kept: on a GPU it reserves more than it is asked
        for. Without `has_even_blocks` what is computed may be other by the last bits."""
        self.network = network
        self.has_room_ahead = has_room_ahead
        self.has_even_blocks = has_even_blocks and network.device.type == "cpu"
        self.layers: list[Tensor] = []
        self.parts: list[Tensor] = []
        """The same memory as [layers of the part, jobs, columns, 2 G, D]."""
        self.lengths: Ids = np.zeros(0, np.int64)
        """Columns in use of each job."""
        self.graphs = Graphs(network.device, network.forward_rows is not None)
        """Of steps over these tensors."""

    @property
    def num_jobs(self) -> int:
        return len(self.lengths)

    @property
    def num_columns(self) -> int:
        """Columns that a forward has to look at.

        On a CPU the last block has at most half of its columns or all of them: products add up a
        whole one in two halves, and those of any number between in parts that depend on it.
        """
        longest = int(self.lengths.max()) if len(self.lengths) else 0
        if self.has_even_blocks and longest % BLOCK > BLOCK // 2:
            return -(-longest // BLOCK) * BLOCK
        return -(-longest // WIDTH) * WIDTH

    @property
    def num_bytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self.parts)

    def clear(self) -> None:
        """Drop all jobs, and the memory too when it has grown beyond a bound."""
        self.lengths = self.lengths[:0]
        if self.num_bytes > (GPU_KEPT * self._gpu_share or KEPT_BYTES):
            self.layers, self.parts = [], []
            self.graphs.drop()
            return_freed()

    @property
    def _gpu_share(self) -> int:
        """Bytes to reserve ahead; 0 without a GPU."""
        device = self.network.device
        if device.type != "cuda" or not self.has_room_ahead:
            return 0
        return int(torch.cuda.get_device_properties(device).total_memory) // GPU_SHARE

    def reserve(self, num_jobs: int, num_columns: int) -> None:
        """Room for this many jobs and columns, at least. Columns double, so that growing stays
        cheap; jobs double on a CPU and on a GPU take what its share has room for."""
        have_jobs, have_columns = self.layers[0].shape[:2] if self.layers else (0, 0)
        if num_jobs <= have_jobs and num_columns <= have_columns:
            return
        share = self._gpu_share
        columns = max(have_columns, GPU_COLUMNS if share else FIRST_COLUMNS)
        while columns < num_columns:
            columns *= 2
        least = max(num_jobs, self.num_jobs)
        jobs = max(least, have_jobs)
        if share:
            fitting = share // (columns * self.network.kv_bytes)
            jobs = max(least, min(fitting, MOST_JOBS))
        elif num_jobs > have_jobs:
            jobs = max(num_jobs, min(2 * have_jobs, MOST_JOBS))
        self.graphs.drop()
        try:
            self._grow(jobs, columns)
        except torch.OutOfMemoryError:
            if jobs == least:
                raise
            self._grow(least, columns)
        if have_jobs and not share and self.num_bytes > KEPT_BYTES:
            return_freed()

    def _grow(self, jobs: int, columns: int) -> None:
        """Move to tensors of this size; of the jobs under way, all that fit them."""
        network = self.network
        for i, num in enumerate(part_sizes(network)):
            shape = (num, jobs, columns, *network.kv_shape)
            grown = torch.zeros(shape, dtype=network.dtype, device=network.device)
            if i < len(self.parts):
                before = self.parts[i][:, :jobs]
                grown[:, : before.shape[1], : before.shape[2]] = before
                self.parts[i] = grown
            else:
                self.parts.append(grown)
            self.layers[i * num : (i + 1) * num] = grown.unbind(0)

    def expect(self, num_jobs: int, num_columns: int) -> None:
        """Reserve at once what jobs may come to need, as far as that is little."""
        affordable = (self._gpu_share or EXPECTED_BYTES) // (num_jobs * self.network.kv_bytes)
        self.reserve(num_jobs, min(num_columns, affordable))

    def open(self, lengths: Sequence[int]) -> Ids:
        """Indices of new jobs with this many columns, which the caller fills."""
        first = self.num_jobs
        self.lengths = np.concatenate((self.lengths, np.asarray(lengths, np.int64)))
        self.reserve(self.num_jobs, self.num_columns)
        return np.arange(first, self.num_jobs)

    def copies(self, jobs: Ids) -> Ids:
        """Indices of new jobs that hold what `jobs` hold."""
        new = self.open(self.lengths[jobs].tolist())
        width = int(self.lengths[jobs].max())
        source = torch.from_numpy(jobs).to(self.network.device)
        for part in self.parts:
            part[:, int(new[0]) : int(new[-1]) + 1, :width] = part[:, source, :width]
        return new

    def wipe(self, jobs: Sequence[int]) -> None:
        """Forget what jobs wrote: a NaN is not hidden by a bias."""
        if jobs:
            for part in self.parts:
                part[:, list(jobs)] = 0

    def append(self, jobs: Ids, counts: Ids) -> Ids:
        """Take `counts` further columns of the jobs; returns the first of each."""
        first = self.lengths[jobs].copy()
        self.lengths[jobs] += counts
        self.reserve(self.num_jobs, self.num_columns)
        return first

    def close(self, jobs: Sequence[int]) -> Ids:
        """Drop jobs. Returns, for each job that stays, its index before, in the new order.

        The last ones move into the gaps, so that little is copied.
        """
        gone = set(jobs)
        order = list(range(self.num_jobs))
        for job in sorted(gone, reverse=True):
            last = order.pop()
            if last != job:
                order[job] = last
        kept = np.asarray(order, np.int64)
        moved = np.flatnonzero(kept != np.arange(len(kept)))
        if len(moved):
            source = torch.from_numpy(kept[moved]).to(self.network.device)
            target = torch.from_numpy(moved).to(self.network.device)
            width = int(self.lengths[kept[moved]].max())
            for part in self.parts:
                part[:, target, :width] = part[:, source, :width]
        self.lengths = self.lengths[kept]
        return kept


def part_sizes(network: InferenceNetwork) -> list[int]:
    """Layers that share a tensor: all on a GPU; on a CPU each its own, for it grows one by one."""
    num = network.arch.num_layers
    return [num] if network.device.type == "cuda" else [1] * num
