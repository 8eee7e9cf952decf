"""Counting a simulation under way, and adding or taking back its result."""

from collections.abc import Iterable

from search.tree import Edge


def begin(path: Iterable[Edge]) -> None:
    for edge in path:
        edge.pending += 1


def finish(path: Iterable[Edge], value: float) -> None:
    """One visit of `value` for each edge of the path; its virtual loss is taken back."""
    for edge in path:
        edge.pending -= 1
        edge.visits += 1
        edge.value_sum += value


def note_dead_end(path: Iterable[Edge]) -> None:
    """An expansion at the end of the path brought nothing that may be tried."""
    for edge in path:
        edge.dead_ends += 1


def cancel(path: Iterable[Edge]) -> None:
    """No visit: the leaf stayed unscored."""
    for edge in path:
        edge.pending -= 1
