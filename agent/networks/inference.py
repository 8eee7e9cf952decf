"""What the engine asks of a network laid out for inference, whichever family it is of.

Shapes: R rows (tokens), N jobs, M queries of a job, C columns of a job's cache, E hidden width,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from agent.networks.architecture import Architecture
from kernels.rows import Rows


@dataclass(frozen=True, slots=True)
class Places:
    """Where the rows of a forward stand: row r is query `query_R[r]` of job `job_R[r]`."""

    jobs: slice
    """The jobs of the cache that are looked at; `job_R` counts from its start."""
    job_R: Tensor
    query_R: Tensor
    column_R: Tensor
    """Where its keys and values are written."""
    position_R: Tensor
    """Its position in the text, for the rotary embedding."""
    bias_NMC: Tensor
    """0 where a query sees a column, minus infinity where it does not."""
    is_dense: bool
    """Rows are all queries of all jobs, in order."""


BeforeAttention = Callable[[int, Tensor], None]
"""Told of each layer, before it attends, its number and the rows' rotated queries [R, H, D]; it may
change which keys and values lie in the cache. Rows may come again behind the last one."""


RowForward = Callable[[Tensor, Rows, list[Tensor]], Tensor]
"""Hidden states [R, E] of tokens [R], where their rows stand, and the cache as `forward` has it."""


class InferenceNetwork(Protocol):
    """One set of weights that reads tokens into the keys and values of a cache."""

    arch: Architecture
    is_critic: bool
    reads_pictures: bool
    """Whether there may be pictures among the tokens (`networks.pictures`)."""
    device: torch.device
    dtype: torch.dtype

    keeps_keys: bool
    """Whether that is keys and values alone, so that columns may be left out."""

    @property
    def kv_shape(self) -> tuple[int, int]:
        """What one token leaves in one layer: heads (keys, then values) and their width or, of a
        recurrent network, one row of numbers."""
        ...

    @property
    def kv_bytes(self) -> int:
        """Of one token in all layers."""
        ...

    def forward(
        self,
        tokens_R: Tensor,
        places: Places,
        cache: list[Tensor],
        before_attention: BeforeAttention | None = None,
    ) -> Tensor:
        """Hidden states [R, E] after the last norm; writes the rows' keys and values.

        `cache` holds one tensor [jobs, columns, *kv_shape] a layer.
        """
        ...

    @property
    def forward_rows(self) -> RowForward | None:
        """A forward of few rows whose shapes depend on their number alone, and which reads nothing
        back, so that it can be captured in a graph; None where there is none."""
        ...

    def decode(
        self, tokens_N: Tensor, column_N: Tensor, num_columns: int, cache: list[Tensor]
    ) -> Tensor:
        """One token of each of the cache's first N jobs, which stands in column `column_N` of its
        job and sees that and those before it; hidden states [N, E]. Of `num_columns` columns none
        in use lies further right.
        """
        ...

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """Float32 logits [R, V] (a critic's: [R, 1])."""
        ...

    def logprobs_of(self, hidden_RE: Tensor, target_M: Tensor, rows_M: Tensor) -> Tensor:
        """log p(target) after the state of each wanted row, float32 [M]."""
        ...
