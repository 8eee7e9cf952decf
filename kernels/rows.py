"""Where the rows of a forward of few tokens stand: what `decoding` is told, on the device."""

from typing import NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """int64 [N] each, N rows (tokens) over C columns of the cache."""

    job: Tensor
    """Of the cache."""
    column: Tensor
    """Of its job, where its keys and values go."""
    position: Tensor
    """In its text."""
    end: Tensor
    """Columns from here on are not looked at."""
    seen: Tensor | None = None
    """Which of those before it sees, uint8 [N, C]; None: all of them."""
