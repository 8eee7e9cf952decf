"""Decoding: the next token of every text under way, a path of its own beside prefill.

One token a job, all jobs of the cache, in their order: what is looked at is a rectangle, and
nothing has to be sorted, counted or scattered.

Shapes: N jobs, C columns, E hidden width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agent.engine.feed import Where, placed
from agent.engine.job_cache import Cache
from agent.networks.inference import InferenceNetwork


def decode(network: InferenceNetwork, cache: Cache, tokens: Sequence[int]) -> Tensor:
    """Feed each job of the cache one token; hidden states [N, E]. The bits are those of `feed`."""
    job_N = np.arange(cache.num_jobs)
    column_N = cache.append(job_N, np.ones_like(job_N))
    is_hidden_NC = np.arange(cache.num_columns) > column_N[:, None]
    query_N = np.zeros_like(job_N)
    where = Where(slice(0, cache.num_jobs), job_N, query_N, column_N, column_N)
    places = placed(network, where, is_hidden_NC[:, None], is_dense=True)
    tokens_N = torch.from_numpy(np.asarray(tokens, np.int64)).to(network.device)
    return network.forward(tokens_N, places, cache.layers)
