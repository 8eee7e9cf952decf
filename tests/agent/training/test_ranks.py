"""Several processes train the same weights as one, up to the order of sums."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.training.examples import Example
from agent.training.fit import DivergedError
from agent.training.job import Place
from agent.training.methods.sft import SftJob
from agent.training.optimizer import TrainingSettings
from agent.training.ranks import rank, rows_of, world_size
from agent.training.ray_runner import train_together
from search.errors import ResourceError

SETTINGS = TrainingSettings(num_steps=6, batch_size=5, learning_rate=3e-3, max_epochs=100)
ROWS = [Example((3 + i, 13, 3 + j, 2, 3 + i, 1), 4) for i in range(6) for j in range(6)]


def job(parent: Path) -> SftJob:
    return SftJob(role="policy", parent=str(parent), settings=SETTINGS, seed=3, examples=ROWS)


def test_outside_a_process_group_there_is_one_rank() -> None:
    assert (rank(), world_size(), rows_of([1, 2, 3], 0)) == (0, 1, [1, 2, 3])


@pytest.mark.cluster
def test_a_loss_that_diverges_in_several_workers_ends_like_in_one(
    cluster: str, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="Ray Train is not installed: pip install -e '.[train]'")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.norm.weight"].fill_(3e38)  # finite, but no product with it is
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    (checkpoint / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(DivergedError) as alone:
        job(checkpoint).run(Place(str(tmp_path / "one"), device="cpu"))
    place = Place(str(tmp_path / "two"), device="cpu", job_id="t")
    with pytest.raises(DivergedError) as together:
        train_together(job(checkpoint), place, 2)
    assert together.value.fix == alone.value.fix
    assert list((tmp_path / "two").iterdir()) == []


@pytest.mark.cluster
def test_more_workers_than_the_cluster_has_room_for_are_refused_at_once(
    cluster: str, checkpoint: Path, tmp_path: Path
) -> None:
    place = Place(str(tmp_path), device="cpu", job_id="t")
    with pytest.raises(ResourceError, match="64 training workers") as caught:
        train_together(job(checkpoint), place, 64)
    assert "hosting.training_workers" in caught.value.fix


@pytest.mark.cluster
def test_two_workers_under_ray_train_learn_what_one_learns(
    cluster: str, checkpoint: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow", reason="Ray Train is not installed: pip install -e '.[train]'")
    alone = job(checkpoint).run(Place(str(tmp_path / "one"), device="cpu"))
    place = Place(str(tmp_path / "two"), device="cpu")
    together = train_together(job(checkpoint), replace(place, job_id="t"), 2)
    assert together.report["num_steps"] == alone.report["num_steps"] == 6
    assert together.report["last_loss"] == pytest.approx(alone.report["last_loss"], rel=1e-4)
    left, right = (load_model(verify_checkpoint(t.path)) for t in (alone, together))
    for name, parameter in left.named_parameters():
        torch.testing.assert_close(
            parameter, dict(right.named_parameters())[name], atol=2e-4, rtol=1e-3
        )
    assert [p.name for p in (tmp_path / "two").iterdir()] == [Path(together.path).name]
