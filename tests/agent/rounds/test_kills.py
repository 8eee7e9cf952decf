"""A round killed at twenty points ends like one never killed (scripts.bench.store has 200)."""

import json
import signal
from pathlib import Path

import pytest

from agent.rounds.failpoints import POINTS
from store.check import check_store
from store.database import open_store
from tests.agent.rounds.small import improve
from tests.agent.rounds.test_round import contents, run_rounds

pytestmark = pytest.mark.round

KILLS = [
    "after-imagining",
    "after-claim",
    "after-journal",
    "before-search-commit",
    "after-search-commit",
    "before-search-commit",
    "after-search-commit",
    "before-search-commit:2",
    "after-search-commit",
    "after-claim",
    "after-search-commit:2",
    "before-search-commit:2",
    "after-search-commit",
    "after-searching",
    "after-selecting",
    "while-training",
    "after-policy",
    "after-training",
    "after-evaluation",
    "before-verdict",
]
"""In the order in which a round comes to them; ten searches are committed in between."""


def test_a_round_killed_at_twenty_points_ends_like_one_never_killed(
    checkpoint: Path, tmp_path: Path
) -> None:
    named = {k.partition(":")[0] for k in KILLS}
    assert named | {"after-verdict", "after-drain"} == set(POINTS) and len(KILLS) == 20
    (tmp_path / "calm").mkdir()
    (tmp_path / "stormy").mkdir()
    run_rounds(tmp_path / "calm", checkpoint)
    for point in KILLS:
        done = improve(tmp_path / "stormy", checkpoint, failpoint=point)
        assert done.returncode == -signal.SIGKILL, (point, done.stderr)
        store = open_store(f"sqlite:///{tmp_path}/stormy/store.db")
        assert not any(check_store(store).values()), point
        store.close()
    done = improve(tmp_path / "stormy", checkpoint)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rounds"][0]["round"] == 1
    assert contents(tmp_path / "stormy") == contents(tmp_path / "calm")
