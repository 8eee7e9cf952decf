"""Training on rows with pictures: policy, critics, and a drafter that sees none."""

from pathlib import Path

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.settings import PolicyTraining
from agent.engine.requests import ScoreRequest
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import PolicyHost
from agent.networks.llava import LlavaModel
from agent.networks.pictures import picture_tokens
from agent.pictures.preprocessing import give_pictures
from agent.training.critic_job import CriticJob
from agent.training.distillation import expected_acceptance
from agent.training.drafter import DrafterJob, cut_drafter
from agent.training.examples import Example, LabelledExample
from agent.training.job import Place
from agent.training.labelling import Split
from agent.training.logprobs import counted_logprobs
from agent.training.methods.sft import SftJob
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import check_adapters
from search.errors import CheckpointError, TaskError
from tests.agent.networks.pictured import IMAGE, PLACES, kept_pictures, write_llava

SETTINGS = TrainingSettings(num_steps=80, batch_size=6, learning_rate=5e-3, max_epochs=1000)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    return str(tmp_path / "pictures")


@pytest.fixture
def texts(pictures: str) -> list[Example]:
    """A different digit for each picture: nothing but the picture says which."""
    found = []
    for i, digest in enumerate(kept_pictures(Path(pictures), 6)):
        tokens = (*picture_tokens(digest, PLACES, IMAGE), 2, 3 + i, 1)
        found.append(Example(tokens, PLACES + 1))
    return found


def test_a_policy_learns_what_only_its_pictures_say_and_serves_it(
    tmp_path: Path, pictures: str, texts: list[Example]
) -> None:
    path = write_llava(tmp_path / "policy")
    job = SftJob(role="policy", parent=str(path), settings=SETTINGS, seed=0, examples=texts)
    place = Place(str(tmp_path / "out"), pictures=pictures)
    trained = job.run(place)
    assert trained.report["last_loss"] < 0.3 < trained.report["first_loss"]
    before = load_model(verify_checkpoint(path))
    after = load_model(verify_checkpoint(trained.path))
    moved = {
        name.split(".")[0]
        for (name, a), (_, b) in zip(
            before.named_parameters(), after.named_parameters(), strict=True
        )
        if not torch.equal(a, b)
    }
    assert moved == {"language_model", "vision_tower", "multi_modal_projector"}
    host = PolicyHost("policy", HostSettings(pictures=pictures))
    ref = verify_checkpoint(trained.path).ref("policy")
    scores = host.logprobs(ref, [ScoreRequest(e.tokens, e.num_prompt) for e in texts])
    assert min(row[0] for row in scores) > -0.7
    assert job.run(place).version == trained.version  # the same rows, the same weights


def test_training_and_serving_make_the_same_numbers(
    tmp_path: Path, pictures: str, texts: list[Example]
) -> None:
    checkpoint = verify_checkpoint(write_llava(tmp_path / "policy"))
    model = load_model(checkpoint)
    give_pictures(model, checkpoint, pictures)
    with torch.no_grad():
        found = counted_logprobs(
            model, [e.tokens for e in texts], [e.num_prompt for e in texts]
        ).per_row()
    host = PolicyHost("policy", HostSettings(pictures=pictures))
    rows = host.logprobs(
        checkpoint.ref("policy"), [ScoreRequest(e.tokens, e.num_prompt) for e in texts]
    )
    assert [sum(r) for r in rows] == pytest.approx(found.tolist(), abs=1e-4)


def test_a_critic_learns_from_pictures(tmp_path: Path, pictures: str, texts: list[Example]) -> None:
    path = write_llava(tmp_path / "policy")
    parent = verify_checkpoint(path)
    start = publish(load_model(parent).as_critic(), parent, tmp_path, "value", {})
    rows = [
        LabelledExample(e.tokens, (len(e.tokens) - 1,), (float(i % 2),))
        for i, e in enumerate(texts)
    ]
    job = CriticJob(
        role="value",
        parent=str(start.path),
        settings=SETTINGS,
        seed=0,
        split=Split(rows * 4, rows),
    )
    trained = job.run(Place(str(tmp_path / "out"), pictures=pictures))
    assert trained.report["held_out_loss"] < trained.report["held_out_loss_before"]
    assert isinstance(load_model(verify_checkpoint(trained.path)), LlavaModel)


def test_a_drafter_is_taught_the_words_alone(
    tmp_path: Path, pictures: str, texts: list[Example]
) -> None:
    path = write_llava(tmp_path / "policy")
    job = DrafterJob(role="drafter", parent=str(path), settings=SETTINGS, seed=0, examples=texts)
    trained = job.run(Place(str(tmp_path / "out"), pictures=pictures))
    drafter = verify_checkpoint(trained.path)
    assert drafter.architecture.vision is None and drafter.architecture.model_type == "llama"
    assert trained.report["last_loss"] < trained.report["first_loss"]
    policy = load_model(verify_checkpoint(path))
    give_pictures(policy, verify_checkpoint(path), pictures)
    assert 0 <= expected_acceptance(policy, cut_drafter(policy), texts) <= 1


def test_a_drafter_is_taught_though_its_policy_was_with_random_positions(
    tmp_path: Path, pictures: str, texts: list[Example]
) -> None:
    path = write_llava(tmp_path / "policy")
    settings = SETTINGS.model_copy(update={"position_span": 64, "num_steps": 3})
    job = DrafterJob(role="drafter", parent=str(path), settings=settings, seed=0, examples=texts)
    assert job.run(Place(str(tmp_path / "out"), pictures=pictures)).report["num_steps"] == 3


def test_rows_with_pictures_and_no_folder_name_the_setting(
    tmp_path: Path, texts: list[Example]
) -> None:
    path = write_llava(tmp_path / "policy")
    job = SftJob(role="policy", parent=str(path), settings=SETTINGS, seed=0, examples=texts)
    with pytest.raises(TaskError, match="no folder of pictures"):
        job.run(Place(str(tmp_path / "out")))


@pytest.mark.parametrize("changes", [{"lora_rank": 4}, {"trainer": "trl"}])
def test_adapters_and_trl_are_refused_for_networks_that_read_pictures(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    header = verify_checkpoint(write_llava(tmp_path / "policy"))
    with pytest.raises(CheckpointError, match="reads pictures"):
        check_adapters(PolicyTraining.model_validate(changes), header)
