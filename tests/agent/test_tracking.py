"""Trackers take the figures of a run, each by its own library and offline."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent.config.load import load_config
from agent.progress import Silent
from agent.tracking import TRACKERS, Nothing, Tracked, log_round, open_tracker
from search.errors import ResourceError


class Noted:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def log(self, name: str, value: float, step: int) -> None:
        self.rows.append((name, value, step))

    def close(self) -> None: ...


def test_progress_becomes_curves_that_go_on_in_the_next_round() -> None:
    noted = Noted()
    progress = Tracked(Silent(), noted)
    for _ in range(2):
        progress.stage("training", 3, "steps")
        for step in (1, 2, 3):
            progress.update(step, loss=1 / step, note="text")
        progress.stage("searching", 10, "problems")
        progress.update(10, solved=0.5)
    losses = [(value, step) for name, value, step in noted.rows if name == "training/loss"]
    assert losses == [(1.0, 1), (0.5, 2), (1 / 3, 3), (1.0, 4), (0.5, 5), (1 / 3, 6)]
    assert [r for r in noted.rows if r[0].startswith("searching")] == [
        ("searching/solved", 0.5, 10),
        ("searching/solved", 0.5, 20),
    ]


def test_a_rounds_verdict_is_logged_under_its_number() -> None:
    noted = Noted()
    log_round(
        noted,
        3,
        {
            "stage": "promoted",
            "verdict": {"n": 600, "p": 0.01, "reason": "x", "is_better": True},
            "before": {"greedy": {"n": 600, "correct": 150}, "search": None},
            "after": {"greedy": {"n": 600, "correct": 300}, "search": None},
        },
    )
    assert sorted(noted.rows) == [
        ("round/greedy_after", 0.5, 3),
        ("round/greedy_before", 0.25, 3),
        ("round/n", 600.0, 3),
        ("round/p", 0.01, 3),
        ("round/promoted", 1.0, 3),
    ]


def written(kind: str, folder: Path) -> None:
    tracker = open_tracker(kind, folder, "mine", {"seed": 7})  # type: ignore[arg-type]
    for step in (1, 2):
        tracker.log("training/loss", 1 / step, step)
    tracker.log("round/promoted", 1.0, 1)
    tracker.close()


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written("tensorboard", tmp_path)
    found = EventAccumulator(str(tmp_path / "mine"))
    found.Reload()
    assert [(e.value, e.step) for e in found.Scalars("training/loss")] == [(1.0, 1), (0.5, 2)]


def test_mlflow_reads_back_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="pip install mlflow")
    pytest.importorskip("mlflow.store.tracking.sqlalchemy_store", reason="pip install mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    written("mlflow", tmp_path)
    rows = sqlite3.connect(tmp_path / "mlflow.db").execute(
        "SELECT value, step FROM metrics WHERE key = 'training/loss' ORDER BY step"
    )
    assert rows.fetchall() == [(1.0, 1), (0.5, 2)]


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    written("wandb", tmp_path)
    assert list(tmp_path.rglob("offline-run-*/*.wandb"))


def test_trackio_keeps_a_local_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    pytest.importorskip("trackio", reason="pip install trackio")
    written("trackio", tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_library_that_is_missing_is_named_with_the_way_out(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any) -> Any:
        raise ModuleNotFoundError(f"No module named {kind!r}", name=kind)

    monkeypatch.setitem(TRACKERS, kind, absent)  # type: ignore[arg-type]
    with pytest.raises(ResourceError, match=f"tracking = {kind}") as caught:
        open_tracker(kind, tmp_path, "r", {})  # type: ignore[arg-type]
    assert "pip install" in caught.value.fix


def test_tracking_changes_no_result_and_is_off_by_default(tmp_path: Path) -> None:
    assert isinstance(open_tracker("none", tmp_path, "r", {}), Nothing)
    plain, tracked = (load_config(f)[0] for f in ({}, {"tracking": "tensorboard"}))
    assert plain.tracking == "none" and plain.digest() == tracked.digest()
