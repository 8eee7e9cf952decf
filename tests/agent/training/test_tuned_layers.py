"""Critics of which only the last blocks train: the rest stays, once on disk and once read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.publish import FROZEN, TUNED
from agent.checkpoints.weights import load_model, tensors_of
from agent.networks.language_model import LanguageModel
from agent.training.critic_job import CriticJob
from agent.training.examples import JudgedExample, LabelledExample
from agent.training.initial import initial_models
from agent.training.job import Place
from agent.training.labelling import Split
from agent.training.optimizer import TrainingSettings
from search.errors import CheckpointError

SETTINGS = TrainingSettings(num_steps=6, batch_size=4, learning_rate=3e-3, max_epochs=100)
LABELLED = [LabelledExample((3 + i, 13, 4, 2), (2, 3), (float(i % 2), 1.0)) for i in range(8)]
JUDGED = [JudgedExample((3 + i, 13, 4, 2), 2, i % 2 == 0) for i in range(8)]
ROWS = {"value": LABELLED, "process": JUDGED, "outcome": JUDGED}


def taught(role: str, parent: Path, folder: Path) -> Checkpoint:
    rows = ROWS[role]
    job = CriticJob(
        role=role,
        parent=str(parent),
        settings=SETTINGS,
        seed=0,
        split=Split(train=list(rows), held_out=list(rows)),
        tuned_layers=1,
    )
    return verify_checkpoint(job.run(Place(str(folder))).path)


@pytest.fixture
def first(checkpoint: Path, tmp_path: Path) -> dict[str, Checkpoint]:
    policy = verify_checkpoint(checkpoint).ref("policy")
    made = initial_models(policy, Place(str(tmp_path)), tuned_layers=1)
    return {each.role: verify_checkpoint(each.path) for each in made}


def model(checkpoint: Checkpoint, num_tuned: int = 1) -> LanguageModel:
    found = load_model(checkpoint)
    found.freeze(num_tuned)
    return found


def test_first_critics_hold_the_lower_blocks_in_one_file(first: dict[str, Checkpoint]) -> None:
    files = [first[role].path / FROZEN for role in ROWS]
    assert len({file.stat().st_ino for file in files}) == 1
    assert files[0].stat().st_nlink == 3
    assert first["drafter"].shards == ("model.safetensors",)


@pytest.mark.parametrize("role", ROWS)
def test_training_changes_the_last_blocks_alone(
    first: dict[str, Checkpoint], tmp_path: Path, role: str
) -> None:
    child = taught(role, first[role].path, tmp_path)
    assert (child.path / FROZEN).samefile(first[role].path / FROZEN)
    with tensors_of(first[role]) as before, tensors_of(child) as after:
        changed = {name for name in before if not torch.equal(before[name], after[name])}
    last = first[role].architecture.num_layers - 1
    assert f"model.layers.{last}.mlp.up_proj.weight" in changed
    assert all(
        f".{last}." in name or name in ("model.norm.weight", "score.weight") for name in changed
    )
    assert child.report["num_examples"] == 8


@pytest.mark.parametrize("is_bfloat16", [False, True])
def test_products_in_bfloat16_leave_the_frozen_file_as_it_is(
    checkpoint: Path, tmp_path: Path, is_bfloat16: bool
) -> None:
    if is_bfloat16:  # as a user's policy is saved
        config = json.loads((checkpoint / "config.json").read_text()) | {"dtype": "bfloat16"}
        weights = load_file(checkpoint / "model.safetensors")
        save_file(
            {name: w.to(torch.bfloat16) for name, w in weights.items()},
            checkpoint / "model.safetensors",
        )
        (checkpoint / "config.json").write_text(json.dumps(config))
        (checkpoint / "ratchet.json").unlink(missing_ok=True)
        (checkpoint / "manifest.json").unlink(missing_ok=True)
    policy = verify_checkpoint(checkpoint).ref("policy")
    made = initial_models(policy, Place(str(tmp_path)), tuned_layers=1)
    parent = {each.role: Path(each.path) for each in made}["process"]
    job = CriticJob(
        role="process",
        parent=str(parent),
        settings=SETTINGS.model_copy(update={"dtype": "bfloat16"}),
        seed=0,
        split=Split(train=list(JUDGED), held_out=list(JUDGED)),
        tuned_layers=1,
    )
    child = Path(job.run(Place(str(tmp_path))).path)
    assert (child / FROZEN).samefile(parent / FROZEN)
    kept = load_file(child / FROZEN)
    expected = torch.bfloat16 if is_bfloat16 else torch.float32
    assert {w.dtype for w in kept.values()} == {expected}


def test_a_taught_critic_outlives_the_folder_that_it_shares_a_file_with(
    first: dict[str, Checkpoint], tmp_path: Path
) -> None:
    child = taught("value", first["value"].path, tmp_path)
    for file in first["value"].path.iterdir():
        file.unlink()
    again = verify_checkpoint(child.path)
    assert again.version == child.version
    load_model(again)


def test_a_link_made_while_weights_are_read_is_no_change(first: dict[str, Checkpoint]) -> None:
    with tensors_of(first["value"]):
        (first["value"].path.parent / "another").hardlink_to(first["value"].path / FROZEN)
    (first["value"].path.parent / "another").unlink()


def test_a_file_changed_while_it_is_read_is_refused(first: dict[str, Checkpoint]) -> None:
    with pytest.raises(CheckpointError, match="is not the file"), tensors_of(first["value"]):
        file = first["value"].path / TUNED
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)


def test_rows_go_through_the_frozen_blocks_once(first: dict[str, Checkpoint]) -> None:
    critic = model(first["value"])
    counted: list[int] = []
    lower = critic.lower

    def counting(tokens_BT: torch.Tensor, positions_BT: torch.Tensor | None = None) -> torch.Tensor:
        counted.append(len(tokens_BT))
        return lower(tokens_BT, positions_BT)

    critic.lower = counting  # type: ignore[method-assign]
    rows = [(3, 13, 4, 2), (5, 13), (3, 13, 4, 2)]
    tokens_BT = torch.tensor([[3, 13, 4, 2], [5, 13, 0, 0], [3, 13, 4, 2]])
    with torch.inference_mode():
        looked = critic.of_rows(rows, tokens_BT)
    trained = critic.of_rows(rows, tokens_BT)
    trained.sum().backward()
    assert counted == [3]
    assert torch.equal(looked, trained.detach())
    torch.testing.assert_close(looked[1, :2], critic(tokens_BT)[1, :2])
    last = critic.arch.num_layers - 1
    for name, parameter in critic.named_parameters():
        is_tuned = critic.block_of(name) >= last
        assert parameter.requires_grad is is_tuned
        assert (parameter.grad is not None) is (is_tuned and name != "score.weight")


def test_states_computed_again_give_the_same_gradients(checkpoint: Path) -> None:
    found = {}
    for is_checkpointed in (False, True):
        network = load_model(verify_checkpoint(checkpoint))
        network.is_checkpointed = is_checkpointed
        network.train()
        network(torch.tensor([[3, 13, 4, 2]])).square().sum().backward()
        found[is_checkpointed] = [p.grad for _, p in network.named_parameters()]
    for kept, again in zip(found[False], found[True], strict=True):
        assert (kept is None and again is None) or torch.equal(kept, again)  # type: ignore[arg-type]


def test_no_tuned_layers_train_all(first: dict[str, Checkpoint], tmp_path: Path) -> None:
    rows = list(LABELLED)
    job = CriticJob(
        role="value",
        parent=str(first["value"].path),
        settings=SETTINGS,
        seed=0,
        split=Split(train=rows, held_out=rows),
    )
    child = verify_checkpoint(job.run(Place(str(tmp_path))).path)
    assert child.shards == ("model.safetensors",)
