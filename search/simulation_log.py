"""A search's log of simulations, and the tree's statistics rebuilt from it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Simulation:
    """One finished simulation: the node it evaluated and the value it backed up."""

    leaf_ix: int
    value: float
    num_tokens: int
    """Tokens that the search had spent when it was told."""


def rebuild(
    parents: Sequence[int | None], log: Sequence[Simulation]
) -> tuple[list[int], list[float]]:
    """(N, W) of every node, from each node's parent and the log.

    Values are added in the order of the log, so the sums are those of the search, bit for bit.
    Raises ValueError for a log that names a node which is not there.

    >>> rebuild([None, 0, 0], [Simulation(0, 0.5, 1), Simulation(2, 1.0, 2)])
    ([2, 0, 1], [1.5, 0.0, 1.0])
    """
    visits, value_sum = [0] * len(parents), [0.0] * len(parents)
    for i, simulation in enumerate(log):
        ix: int | None = simulation.leaf_ix
        if not 0 <= simulation.leaf_ix < len(parents):
            raise ValueError(
                f"simulation {i} evaluated node {ix}, but the tree has {len(parents)} nodes"
            )
        while ix is not None:
            visits[ix] += 1
            value_sum[ix] += simulation.value
            ix = parents[ix]
    return visits, value_sum
