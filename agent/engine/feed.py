"""Feeding tokens to jobs: whole prefixes, or the next tokens of texts under way."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.engine.forward import Where, forward
from agent.engine.job_cache import Cache, Ids
from agent.engine.prefix_cache import KVTree, Tokens
from agent.networks.inference import BeforeAttention, InferenceNetwork
from agent.networks.pictures import whole_before

STATE_BYTES = 2**26
"""Of the states of one prefill's columns."""
PREFILL_CELLS = 16384
"""Queries of one prefill, jobs times the longest, at most."""


def feed(
    network: InferenceNetwork,
    cache: Cache,
    jobs: Ids,
    rows: Sequence[Sequence[int]],
    ahead: Ids | None = None,
    before_attention: BeforeAttention | None = None,
) -> Tensor:
    """Feed each job its next tokens; hidden states [R, E] of all of them, job by job.

    Where a job's columns are not all of its text, its tokens stand so many places `ahead` of them.
    """
    counts = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    tokens = np.fromiter((t for row in rows for t in row), np.int64, int(counts.sum()))
    firsts = cache.append(jobs, counts)
    longest = int(counts.max())
    start, stop = int(jobs.min()), int(jobs.max()) + 1
    num_jobs = stop - start
    is_dense = len(tokens) == num_jobs * longest and bool((np.diff(jobs) == 1).all())
    query = np.arange(longest)
    query_R = within(counts)
    column_R = np.repeat(firsts, counts) + query_R
    first_N = np.zeros(num_jobs, np.int64)
    first_N[jobs - start] = firsts
    is_hidden = np.arange(cache.num_columns) > (first_N[:, None] + query)[..., None]
    job_R = np.repeat(jobs - start, counts)
    position_R = column_R if ahead is None else column_R + np.repeat(ahead, counts)
    # Drafts for other texts may go on where this one's context ends; who asked drops that.
    position_R = np.minimum(position_R, network.arch.max_positions - 1)
    where = Where(slice(start, stop), job_R, query_R, column_R, position_R)
    return forward(network, cache, tokens, where, is_hidden, is_dense, before_attention)


def by_job(logits_RV: Tensor, counts: Ids) -> Tensor:
    """What jobs have, so many rows each, side by side: [N, Q, V], zeros behind the last of each."""
    num, longest = len(counts), int(counts.max())
    if len(logits_RV) == num * longest:
        return logits_RV.view(num, longest, -1)
    logits_NQV = logits_RV.new_zeros((num, longest, logits_RV.shape[1]))
    logits_NQV[np.repeat(np.arange(num), counts), within(counts)] = logits_RV
    return logits_NQV


def within(counts: Ids) -> Ids:
    """0, 1, ... for each of some runs of this many rows."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1])) - np.repeat(ends - counts, counts)


@dataclass(frozen=True, slots=True)
class Opened:
    """Jobs that hold their prefixes."""

    jobs: Ids
    """One for each prefix, in order."""
    hidden_NE: Tensor
    """After the last token of each."""


def prefill(
    network: InferenceNetwork, cache: Cache, tree: KVTree, prefixes: Sequence[Tokens]
) -> Opened:
    """Open a job for each prefix. What the tree holds is copied, equal prefixes are fed once."""
    first_of = {prefix: i for i, prefix in reversed(list(enumerate(prefixes)))}
    unique = sorted(set(first_of.values()))
    found = [tree.match(_but_last(prefixes[i]))[1] for i in unique]
    if network.arch.vision is not None:  # a picture is read whole, or not at all
        num = network.arch.vision.num_tokens
        found = [
            ids[: whole_before(prefixes[i], len(ids), num)]
            for i, ids in zip(unique, found, strict=True)
        ]
    jobs = cache.open([len(ids) for ids in found])
    tree.load(cache, jobs, found)
    rows = [prefixes[i][len(ids) :] for i, ids in zip(unique, found, strict=True)]
    hidden = torch.empty(
        (len(prefixes), network.arch.hidden_size), dtype=network.dtype, device=network.device
    )
    for part in _parts(rows, network):
        out = feed(network, cache, jobs[part], rows[part])
        last = np.cumsum([len(row) for row in rows[part]]) - 1
        hidden[unique[part]] = out[torch.from_numpy(last).to(network.device)]
    tree.store(cache, [(int(j), prefixes[i]) for j, i in zip(jobs, unique, strict=True)])
    job_of = np.empty(len(prefixes), np.int64)
    job_of[unique] = jobs
    others = [i for i in range(len(prefixes)) if first_of[prefixes[i]] != i]
    if others:
        same = [first_of[prefixes[i]] for i in others]
        job_of[others] = cache.copies(job_of[same])
        hidden[others] = hidden[same]
    return Opened(job_of, hidden)


def _but_last(prefix: Tokens) -> Tokens:
    """The last token is always fed, so that there are logits after it."""
    return prefix[:-1]


def _parts(rows: Sequence[Sequence[int]], network: InferenceNetwork) -> list[slice]:
    """Runs of rows that fit one prefill: fewer of a network that computes a state for each."""
    cells = PREFILL_CELLS if network.keeps_keys else STATE_BYTES // network.kv_bytes + 1
    parts, start, longest = list[slice](), 0, 0
    for i, row in enumerate(rows):
        longest = max(longest, len(row))
        if i > start and longest * (i + 1 - start) > min(cells, PREFILL_CELLS):
            parts.append(slice(start, i))
            start, longest = i, len(row)
    return [*parts, slice(start, len(rows))] if rows else parts
