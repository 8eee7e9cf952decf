"""The collector of cycles is asked less often while searches run, and as before afterwards."""

import gc

import pytest

from search.collector import RARELY, rare_collections


def test_the_collector_is_as_before_when_the_last_search_has_ended() -> None:
    before = gc.get_threshold()
    with rare_collections():
        with rare_collections():
            assert gc.get_threshold() == RARELY
        assert gc.get_threshold() == RARELY  # another one still runs
    assert gc.get_threshold() == before


def test_a_search_that_fails_leaves_it_as_it_was() -> None:
    before = gc.get_threshold()
    with pytest.raises(ValueError, match="no"), rare_collections():
        raise ValueError("no")
    assert gc.get_threshold() == before
