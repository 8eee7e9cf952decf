"""How rows that share a batch are multiplied and attend, so that none feels the others.

On a CPU with one thread a row's bits do not depend on what shares its batch. Five rules keep it so,
each measured: no product has fewer rows than `MIN_ROWS` (few rows take another code path, which
adds in another order: one on Intel's CPUs, up to three on AMD's), no block of queries has fewer
than that or than its heads' width needs (`folded_bias`), no element-wise loop ends in a part of a
vector (`llama_layout.ALIGNMENT`), a text always lies in the same columns, and the columns that
attention looks at end half-way through a block, before it, or with it (`Cache.num_columns`).

Shapes: R rows (tokens), N jobs, M queries of a job, C columns of a job's cache.
"""

import torch
from torch import Tensor

from agent.networks.inference import Places
from agent.networks.llama_layout import LowRank

MIN_ROWS = 4
QUERY_BLOCK = 32
"""Queries that torch's CPU attention multiplies at once."""
WIDTH_OF_A_QUERY = 16
"""A block needs a query for each so many numbers of a head's width: heads of 96 numbers need 5, of
128 need 6, of 192 need 9, of 256 need 11."""


def with_rows(x: Tensor) -> Tensor:
    """x [R, ...] with its last row repeated up to `MIN_ROWS`."""
    missing = MIN_ROWS - x.shape[0]
    return x if missing <= 0 or not len(x) else torch.cat((x, x[-1:].expand(missing, *x.shape[1:])))


def product(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    onto: Tensor | None = None,
    low: LowRank | None = None,
) -> Tensor:
    """x @ matrix + bias + onto, as one operation where it can be, and what an adapter adds."""
    num_rows = x.shape[0]
    if num_rows < MIN_ROWS and x.device.type == "cpu":
        more = None if onto is None else with_rows(onto)
        return product(with_rows(x), matrix, bias, more, low)[:num_rows]
    if low is not None:
        onto = x @ low.a @ low.b if onto is None else torch.addmm(onto, x @ low.a, low.b)
    if onto is None:
        return x @ matrix if bias is None else torch.addmm(bias, x, matrix)
    y = torch.addmm(onto, x, matrix)
    return y if bias is None else y.add_(bias)


def folded_bias(bias_NMC: Tensor, group: int, width: int) -> Tensor:
    """The bias [N, 1, queries, C] of all heads of a group, `width` wide; no block of queries is
    smaller than such heads need."""
    bias = bias_NMC if group == 1 else bias_NMC.repeat_interleave(group, dim=1)
    least = max(MIN_ROWS, -(-width // WIDTH_OF_A_QUERY))
    rest = bias.shape[1] % QUERY_BLOCK
    if 0 < rest < least:
        bias = torch.cat((bias, bias[:, -1:].expand(-1, least - rest, -1)), dim=1)
    return bias[:, None]


def repeated(places: Places, row_R: Tensor) -> Places:
    """Some rows again, as the same queries: they write the same bits to the same place."""
    return Places(
        places.jobs,
        places.job_R[row_R],
        places.query_R[row_R],
        places.column_R[row_R],
        places.position_R[row_R],
        places.bias_NMC,
        is_dense=False,
    )


def decoding_places(column_N: Tensor, num_columns: int, dtype: torch.dtype, longest: int) -> Places:
    """Of one token of each job, which sees its own column and those before it; none stands behind
    the `longest` text that there is."""
    num, device = len(column_N), column_N.device
    bias = torch.zeros((num, 1, num_columns), dtype=dtype, device=device)
    column_C = torch.arange(num_columns, device=device)
    bias.masked_fill_((column_C > column_N[:, None])[:, None], float("-inf"))
    return Places(
        jobs=slice(0, num),
        job_R=torch.arange(num, device=device),
        query_R=torch.zeros_like(column_N),
        column_R=column_N,
        position_R=column_N.clamp(max=longest - 1),
        bias_NMC=bias,
        is_dense=True,
    )
