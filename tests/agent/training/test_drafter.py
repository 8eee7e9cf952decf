"""A drafter learns what its policy would say, and goes on from the one before it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.config.settings import PolicyTraining
from agent.training import distillation, fit
from agent.training.distillation import (
    Teacher,
    distillation_loss,
    expected_acceptance,
    learned_states,
)
from agent.training.drafter import DrafterJob, cut_drafter, distil
from agent.training.examples import Example
from agent.training.fit import looked_at_once
from agent.training.job import Place
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import drafter_settings, policy_settings
from tests.agent.conftest import write_checkpoint

TEXTS = [
    Example((3 + i % 10, 13, 4, 2, 3 + (3 * i) % 10, 3 + (7 * i) % 10, 1), 4) for i in range(40)
]
SETTINGS = TrainingSettings(num_steps=40, batch_size=8, learning_rate=1e-2, max_epochs=100)


@pytest.fixture
def policy(tmp_path: Path) -> Checkpoint:
    return verify_checkpoint(write_checkpoint(tmp_path / "policy", seed=1, scale=4.0))


def trained(policy: Checkpoint, folder: Path, start: str = "", num_steps: int = 40) -> Checkpoint:
    job = DrafterJob(
        role="drafter",
        parent=str(policy.path),
        settings=SETTINGS.model_copy(update={"num_steps": num_steps}),
        seed=0,
        examples=TEXTS,
        start=start,
    )
    return verify_checkpoint(job.run(Place(str(folder))).path)


def test_what_a_drafter_learned_the_next_one_begins_with(
    policy: Checkpoint, tmp_path: Path
) -> None:
    first = trained(policy, tmp_path / "a")
    report = first.notes["report"]
    assert report["went_on_from"] == ""
    assert report["acceptance"] > report["acceptance_before"]
    changed = verify_checkpoint(write_checkpoint(tmp_path / "new", seed=1, scale=4.1))
    second = trained(changed, tmp_path / "b", start=str(first.path), num_steps=1)
    again = second.notes["report"]
    assert again["went_on_from"] == first.version
    assert again["acceptance_before"] == pytest.approx(
        expected_acceptance(load_model(changed), load_model(first), TEXTS[:4])
    )
    assert again["acceptance_before"] > report["acceptance_before"]
    assert second.notes["parent"] == changed.version


def test_a_drafter_of_another_network_gives_way_to_a_new_cut(
    policy: Checkpoint, tmp_path: Path
) -> None:
    other = verify_checkpoint(write_checkpoint(tmp_path / "other", intermediate_size=40))
    found = trained(policy, tmp_path / "a", start=str(other.path), num_steps=1)
    assert found.notes["report"]["went_on_from"] == ""
    assert found.architecture.num_layers == 1


def test_distillation_needs_no_token_of_the_texts_to_be_the_policys_own(
    policy: Checkpoint,
) -> None:
    """Hard labels would teach what the policy never says."""
    teacher = load_model(policy)
    student = cut_drafter(teacher)
    before = expected_acceptance(teacher, student, TEXTS)
    distil(teacher, student, TEXTS, SETTINGS, 0)
    assert expected_acceptance(teacher, student, TEXTS) > before + 0.1


def test_the_loss_is_the_chance_of_a_refusal_and_a_little_cross_entropy(
    policy: Checkpoint,
) -> None:
    teacher = load_model(policy)
    student = cut_drafter(teacher)
    wanted, own = (learned_states(model, TEXTS) for model in (teacher, student))
    p, q = (model.logits(x).softmax(-1) for model, x in ((teacher, wanted), (student, own)))
    expected = (-0.1 * (p * q.log()).sum() + 0.9 * (p - q).abs().sum() / 2).detach()
    found = distillation_loss(teacher, wanted, student, own)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    acceptance = expected_acceptance(teacher, student, TEXTS)
    assert acceptance == pytest.approx(
        1 - float((p - q).detach().abs().sum()) / 2 / len(p), rel=1e-5
    )


def test_parts_give_the_loss_and_the_gradient_of_the_whole(
    policy: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_model(policy)

    def gradient() -> tuple[float, dict[str, Tensor]]:
        student = cut_drafter(teacher)
        with torch.no_grad():
            wanted = learned_states(teacher, TEXTS)
        loss = distillation_loss(teacher, wanted, student, learned_states(student, TEXTS))
        loss.backward()
        return loss.item(), {n: p.grad for n, p in student.named_parameters() if p.grad is not None}

    whole, gradients = gradient()
    monkeypatch.setattr(distillation, "MOST_LOGITS", 7 * teacher.arch.vocab_size)
    in_parts, found = gradient()
    assert in_parts == pytest.approx(whole, rel=1e-5)
    assert found.keys() == gradients.keys() and len(found) > 5
    for name, expected in gradients.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


def test_a_text_goes_through_the_policy_once(
    policy: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(policy)
    seen: list[int] = []
    monkeypatch.setattr(
        distillation,
        "learned_states",
        lambda m, rows, at=None: (seen.append(len(rows)), learned_states(m, rows, at))[1],
    )
    teacher = Teacher(model, TEXTS)
    first = teacher.states([0, 3])
    again = teacher.states([3, 5, 3])
    assert seen == [2, 1]
    assert torch.equal(again[:3], first[3:]) and torch.equal(again[6:], first[3:])
    torch.testing.assert_close(again, learned_states(model, [TEXTS[i] for i in (3, 5, 3)]))
    drawn = torch.arange(7)[None] + 5
    teacher.states([3], drawn)
    teacher.states([3], drawn)
    assert seen == [2, 1, 1, 1]  # positions that are drawn are others each time
    monkeypatch.setattr(distillation, "KEPT_BYTES", 0)
    tight = Teacher(model, TEXTS)
    assert torch.equal(tight.states([3]), tight.states([3])) and seen[4:] == [1, 1]


def test_a_drafter_learns_at_no_less_than_a_pretrained_models_rate(policy: Checkpoint) -> None:
    low = PolicyTraining(learning_rate=3e-5, drafter_steps=7)
    found = drafter_settings(low, policy_settings(low, policy), policy)
    assert (found.learning_rate, found.num_steps) == (3e-4, 7)
    high = PolicyTraining(learning_rate=2e-3)
    assert drafter_settings(high, policy_settings(high, policy), policy).learning_rate == 2e-3


def test_a_look_at_a_large_model_takes_as_many_tokens_as_it_learns_from(
    policy: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(policy)
    assert list(looked_at_once([7] * 70, model)) == [(0, 64), (64, 70)]
    monkeypatch.setattr(fit, "LARGE", 0)
    monkeypatch.setattr(fit, "MICRO_TOKENS", 30)
    assert list(looked_at_once([7, 7, 7, 7, 7, 40, 5], model)) == [(0, 4), (4, 5), (5, 6), (6, 7)]
    whole = expected_acceptance(model, cut_drafter(model), TEXTS)
    monkeypatch.setattr(fit, "LARGE", 10**9)
    assert expected_acceptance(model, cut_drafter(model), TEXTS) == pytest.approx(whole, rel=1e-5)
