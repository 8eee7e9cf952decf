"""Who was compared with whom, and who beat whom: what a common scale needs."""

import numpy as np
from numpy.typing import NDArray

from agent.arena.votes import LOSS, TIE, WIN, Floats

Bools = NDArray[np.bool_]


def beaten(counts: Floats) -> Bools:
    """MM: whether the row's contestant won against the column's, or tied, at least once."""
    won = (counts[:, :, WIN] > 0) | (counts[:, :, TIE] > 0)
    lost = (counts[:, :, LOSS] > 0) | (counts[:, :, TIE] > 0)
    return won | lost.T


def reachable(edges: Bools) -> Bools:
    """MM: whether a path leads from row to column; each reaches itself."""
    found = edges | np.eye(len(edges), dtype=np.bool_)
    while True:
        further = (found.astype(np.float64) @ found) > 0
        if np.array_equal(further, found):
            return found
        found = further


def groups(edges: Bools) -> list[list[int]]:
    """Contestants that were compared with each other, directly or over others."""
    reach = reachable(edges | edges.T)
    return [list(np.flatnonzero(reach[i])) for i in range(len(edges)) if i == reach[i].argmax()]
