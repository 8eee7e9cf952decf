"""One forward over the jobs of a cache: what is looked at, and how it goes to the device.

Few rows go as a graph where the network can (`InferenceNetwork.forward_rows`), all others as they
are.

Shapes: R rows (tokens), N jobs, M queries of a job, C columns of the cache.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent.engine.graphs import MOST_ROWS, bucket
from agent.engine.job_cache import Cache, Ids
from agent.networks.inference import BeforeAttention, InferenceNetwork, Places, RowForward
from agent.networks.pictures import FIRST_WORD
from kernels.rows import Rows


@dataclass(frozen=True, slots=True)
class Where:
    """Where the rows of a forward stand; see `Places`."""

    jobs: slice
    job_R: Ids
    query_R: Ids
    column_R: Ids
    position_R: Ids


def placed(
    network: InferenceNetwork, where: Where, is_hidden_NMC: NDArray[np.bool_], is_dense: bool
) -> Places:
    """The same on the network's device, with the bias that hides columns from queries."""
    device = network.device
    bias = torch.zeros(is_hidden_NMC.shape, dtype=network.dtype, device=device)
    bias.masked_fill_(torch.from_numpy(is_hidden_NMC).to(device), float("-inf"))
    job, query, column, position = (
        torch.from_numpy(x).to(device)
        for x in (where.job_R, where.query_R, where.column_R, where.position_R)
    )
    return Places(where.jobs, job, query, column, position, bias, is_dense)


def forward(
    network: InferenceNetwork,
    cache: Cache,
    tokens: Ids,
    where: Where,
    is_hidden_NMC: NDArray[np.bool_],
    is_dense: bool,
    before_attention: BeforeAttention | None = None,
) -> Tensor:
    """Hidden states [R, E] after each token; few rows in a graph where there is one, unless
    somebody looks at their queries."""
    row_forward = network.forward_rows
    # Pictures are looked up by the host, which no graph does.
    is_text = not network.reads_pictures or int(tokens.max()) < FIRST_WORD
    is_few = len(tokens) <= MOST_ROWS and before_attention is None
    if row_forward is not None and is_few and is_text:
        seen_RC = ~is_hidden_NMC[where.job_R, where.query_R]
        return _few_rows(network, row_forward, cache, tokens, where, seen_RC)
    places = placed(network, where, is_hidden_NMC, is_dense)
    tokens_R = torch.from_numpy(tokens).to(network.device)
    return network.forward(tokens_R, places, cache.layers, before_attention)


def _few_rows(
    network: InferenceNetwork,
    row_forward: RowForward,
    cache: Cache,
    tokens: Ids,
    where: Where,
    seen_RC: NDArray[np.bool_],
) -> Tensor:
    """Rows that are missing to a bucket write to a job that nobody has."""
    num, size = len(tokens), bucket(len(tokens))
    cache.reserve(cache.num_jobs + 1, cache.num_columns)
    key = ("rows", size)
    if key not in cache.graphs.buffers:
        cache.graphs.buffers[key] = _RowBuffers(size, cache.layers[0].shape[1], network)
    buffers: _RowBuffers = cache.graphs.buffers[key]
    numbers = np.zeros((5, size), np.int64)
    numbers[1, num:], numbers[4, num:] = cache.num_jobs, 1
    ends = cache.lengths[where.jobs][where.job_R]
    given = (tokens, where.job_R + where.jobs.start, where.column_R, where.position_R, ends)
    for row, values in zip(numbers, given, strict=True):
        row[:num] = values
    seen = np.ones((size, seen_RC.shape[1]), np.uint8)
    seen[:num] = seen_RC

    def fill() -> None:
        buffers.numbers.copy_(torch.from_numpy(numbers))
        buffers.seen[:, : seen.shape[1]].copy_(torch.from_numpy(seen))

    def step() -> None:
        job, column, position, end = buffers.numbers[1:]
        at = Rows(job, column, position, end, buffers.seen)
        buffers.hidden.copy_(row_forward(buffers.numbers[0], at, cache.layers))

    cache.graphs.of(key, fill, step)()
    return buffers.hidden[:num].clone()


class _RowBuffers:
    """What a graph of so many rows reads and writes."""

    def __init__(self, size: int, num_columns: int, network: InferenceNetwork) -> None:
        device = network.device
        self.numbers = torch.zeros((5, size), dtype=torch.int64, device=device)
        """Tokens, jobs, columns, positions and ends; see `Rows`."""
        self.seen = torch.ones((size, num_columns), dtype=torch.uint8, device=device)
        shape = (size, network.arch.hidden_size)
        self.hidden = torch.zeros(shape, dtype=network.dtype, device=device)
