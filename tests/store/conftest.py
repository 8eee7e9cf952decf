"""An opened store of each kind."""

from collections.abc import Iterator

import pytest

from store.database import Store, open_store


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()
