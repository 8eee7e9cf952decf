"""Processes that share one copy of the weights learn what one process learns."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.training import sharding
from agent.training.examples import Example
from agent.training.job import Place
from agent.training.methods.sft import SftJob
from agent.training.optimizer import TrainingSettings

ROWS = [
    Example((3 + i, 13, 3 + j, 2, *([5] * (i % 4)), 3 + i, 1), 4)
    for i in range(6)
    for j in range(6)
]
SETTINGS = TrainingSettings(
    num_steps=8, batch_size=5, learning_rate=3e-3, max_epochs=100, sharding="always"
)
RANKS = 2


def job(parent: Path, **changed: Any) -> SftJob:
    """Five rows a step for two ranks; with few tokens at once one of them has more runs."""
    settings = SETTINGS.model_copy(update=changed)
    dev = ROWS[::7]
    return SftJob(
        role="policy", parent=str(parent), settings=settings, seed=3, examples=ROWS, dev=dev
    )


def _rank(number: int, port: int, parent: str, folder: str, changed: dict[str, Any]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=number, world_size=RANKS)
    checkpoint = verify_checkpoint(parent)
    model = sharding.load_sharded(checkpoint, "cpu")
    held = sum(p.to_local().numel() for _, p in sharding._shards(model))
    Path(folder, f"held-{number}.json").write_text(json.dumps(held))
    made = job(Path(parent), **changed).run(Place(folder, device="cpu"))
    Path(folder, f"made-{number}.json").write_text(json.dumps([made.path, made.report]))
    distributed.destroy_process_group()


def together(parent: Path, folder: Path, **changed: Any) -> tuple[Path, dict[str, Any]]:
    """Where two ranks published what they trained, and their report."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_rank, (port, str(parent), str(folder), changed), nprocs=RANKS)
    path, report = json.loads((folder / "made-0.json").read_text())
    return Path(path), report


@pytest.mark.parametrize(
    "changed", [{}, {"micro_tokens": 12}, {"position_span": 40}, {"lora_rank": 4}]
)
def test_two_sharded_ranks_learn_what_one_process_learns(
    checkpoint: Path, tmp_path: Path, changed: dict[str, Any]
) -> None:
    alone = job(checkpoint, **changed).run(Place(str(tmp_path / "one"), device="cpu"))
    path, report = together(checkpoint, tmp_path / "two", **changed)
    for name in ("first_loss", "last_loss", "dev_loss"):
        assert report[name] == pytest.approx(alone.report[name], rel=1e-4)
    left, right = (load_model(verify_checkpoint(p)) for p in (alone.path, path))
    others = dict(right.named_parameters())
    for name, parameter in left.named_parameters():
        torch.testing.assert_close(parameter, others[name], atol=2e-4, rtol=1e-3)
    assert report["kept_step"] == alone.report["kept_step"]
    # No rank holds more than its part, rounded up row by row.
    held = [json.loads((tmp_path / "two" / f"held-{r}.json").read_text()) for r in range(RANKS)]
    size = verify_checkpoint(checkpoint).num_parameters
    assert sum(held) == size and max(held) < 0.6 * size
    published = [p for p in (tmp_path / "two").iterdir() if p.is_dir()]
    assert [p.name for p in published] == [path.name]


def test_ranks_that_share_all_weights_merge_the_parents_adapters(
    checkpoint: Path, tmp_path: Path
) -> None:
    adapted = Path(job(checkpoint, lora_rank=4).run(Place(str(tmp_path / "adapted"))).path)
    alone = job(adapted).run(Place(str(tmp_path / "one"), device="cpu"))
    path, report = together(adapted, tmp_path / "two")
    assert report["first_loss"] == pytest.approx(alone.report["first_loss"], rel=1e-4)
    assert report["last_loss"] == pytest.approx(alone.report["last_loss"], rel=1e-3)
    assert verify_checkpoint(path).adapter is None


def test_who_shares_is_told_by_size_setting_and_optimiser(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = verify_checkpoint(checkpoint)
    monkeypatch.setattr(sharding, "world_size", lambda: 2)
    auto, always, never = (
        SETTINGS.model_copy(update={"sharding": name}) for name in ("auto", "always", "never")
    )
    assert sharding.is_wanted(found, always) and not sharding.is_wanted(found, auto)
    muon = always.model_copy(update={"optimizer": "muon"})
    assert not sharding.is_wanted(found, muon)
    monkeypatch.setattr(sharding, "LARGE", found.num_parameters)
    assert sharding.is_wanted(found, auto) and not sharding.is_wanted(found, never)


def test_a_process_of_its_own_shares_nothing(checkpoint: Path) -> None:
    found = verify_checkpoint(checkpoint)
    assert not sharding.is_wanted(found, SETTINGS)
    model = load_model(found)
    assert not sharding.is_sharded(model) and sharding.whole(model) is model
