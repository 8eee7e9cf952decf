"""Adapters on a base: what they compute, what is written, who goes on from them, who may not."""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.merging import merge_into
from agent.checkpoints.publish import copied, publish
from agent.checkpoints.weights import load_adapted, load_model
from agent.config.load import load_config
from agent.config.settings import PolicyTraining
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.hosting import model_host
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.networks.adapter_shape import AdapterShape
from agent.networks.language_model import LanguageModel
from agent.open_models import _base_models
from agent.training.checker import CheckerJob, JudgedText
from agent.training.clipped import Clip
from agent.training.critic_job import CriticJob
from agent.training.drafter import DrafterJob
from agent.training.examples import (
    Example,
    JudgedExample,
    LabelledExample,
    PairExample,
    SiblingSteps,
    StoredState,
)
from agent.training.initial import initial_models
from agent.training.job import LoopJob, Place, adapted_model
from agent.training.labelling import Split
from agent.training.methods.dpo import DpoJob, PreferenceSettings
from agent.training.methods.dr_po import DrPoJob, GradientSettings
from agent.training.methods.sft import SftJob
from agent.training.methods.tree_pg import TreePgJob
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import check_adapters
from search.errors import CheckpointError, UsageError

SETTINGS = TrainingSettings(
    num_steps=12, batch_size=8, learning_rate=2e-2, max_epochs=100, lora_rank=4
)
ROWS = [Example((3 + i, 13, 3 + j, 2, 3 + i, 1), 4) for i in range(6) for j in range(6)]
TOKENS = torch.tensor([[5, 13, 4, 2, 7], [6, 13, 3, 2, 9]])
REQUESTS = [CompletionRequest((3 + i, 13, 4, 2), 6, 1.0, i) for i in range(5)]


def sft(parent: Path | str, folder: Path, settings: TrainingSettings = SETTINGS) -> Checkpoint:
    job = SftJob(role="policy", parent=str(parent), settings=settings, seed=0, examples=ROWS)
    made = job.run(Place(str(folder)))
    assert made.report["last_loss"] < made.report["first_loss"]
    return verify_checkpoint(made.path)


@pytest.fixture
def adapted(checkpoint: Path, tmp_path: Path) -> Checkpoint:
    return sft(checkpoint, tmp_path / "out")


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        return model.logits(model(TOKENS))


def merged(checkpoint: Checkpoint) -> LanguageModel:
    model = load_model(checkpoint)
    model.merge()
    return model


def engine_of(checkpoint: Checkpoint, model: LanguageModel) -> TorchEngine:
    tokenizer = Tokenizer(checkpoint.path)
    return TorchEngine(model, tokenizer.steps, tokenizer.end_ids)


def test_adapters_that_learned_nothing_change_nothing(checkpoint: Path) -> None:
    base = verify_checkpoint(checkpoint)
    fresh = load_adapted(base, AdapterShape.of_rank(4), 0)
    assert torch.equal(logits(fresh), logits(load_model(base)))


def test_a_checkpoint_of_adapters_holds_nothing_else(adapted: Checkpoint, checkpoint: Path) -> None:
    written = load_file(adapted.path / "adapter_model.safetensors")
    assert {name.split(".")[-2] for name in written} == {"lora_A", "lora_B"}
    assert not (adapted.path / "model.safetensors").exists()
    base = verify_checkpoint(checkpoint)
    assert adapted.whole.version == base.version and adapted.version != base.version
    assert not torch.allclose(logits(load_model(adapted)), logits(load_model(base)), atol=1e-3)


def test_the_base_stays_as_it_is(adapted: Checkpoint, checkpoint: Path) -> None:
    before = dict(load_model(verify_checkpoint(checkpoint)).named_parameters())
    for name, parameter in load_model(adapted).named_parameters():
        if name in before:
            assert torch.equal(parameter, before[name])


def test_merged_weights_compute_the_same(adapted: Checkpoint) -> None:
    torch.testing.assert_close(
        logits(merged(adapted)), logits(load_model(adapted)), atol=1e-4, rtol=1e-4
    )


def test_the_engine_writes_with_adapters_what_it_writes_with_merged_weights(
    adapted: Checkpoint,
) -> None:
    beside = engine_of(adapted, load_model(adapted))
    whole = engine_of(adapted, merged(adapted))
    texts = [[c.generated.tokens for c in e.completions(REQUESTS)] for e in (beside, whole)]
    assert texts[0] == texts[1]
    scores = [e.score([ScoreRequest((5, 13, 4, 2, 7, 1), 1)])[0] for e in (beside, whole)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_a_rows_bits_do_not_depend_on_its_batch(adapted: Checkpoint) -> None:
    engine = engine_of(adapted, load_model(adapted))
    asked = [ScoreRequest((3 + i, 13, 4, 2, 7, 1), 1) for i in range(9)]
    together = engine.score(asked)
    assert [engine_of(adapted, load_model(adapted)).score([one])[0] for one in asked] == together


def test_adapters_in_bfloat16_are_near_to_those_in_float32(adapted: Checkpoint) -> None:
    low = engine_of(adapted, load_model(adapted, torch.bfloat16))
    high = engine_of(adapted, load_model(adapted))
    request = [ScoreRequest((5, 13, 4, 2, 7, 1), 1)]
    assert low.score(request)[0] == pytest.approx(high.score(request)[0], abs=0.15)


def test_peft_reads_what_is_written(adapted: Checkpoint) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed: pip install -e '.[trl]'")
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(
        adapted.whole.path, dtype=torch.float32, local_files_only=True
    )
    theirs = peft.PeftModel.from_pretrained(base, adapted.path)
    with torch.no_grad():
        found = theirs(TOKENS).logits
    torch.testing.assert_close(found, logits(load_model(adapted)), atol=1e-4, rtol=1e-4)


def test_the_same_job_gives_the_same_weights(
    adapted: Checkpoint, checkpoint: Path, tmp_path: Path
) -> None:
    assert sft(checkpoint, tmp_path / "again").version == adapted.version


def test_training_goes_on_from_adapters_on_the_same_base(
    adapted: Checkpoint, tmp_path: Path
) -> None:
    further = sft(adapted.path, tmp_path / "further")
    assert further.whole.version == adapted.whole.version
    assert further.version != adapted.version
    assert further.notes["parent"] == adapted.version


def test_training_of_all_weights_merges_the_parents_adapters(
    adapted: Checkpoint, tmp_path: Path
) -> None:
    tiny = SETTINGS.model_copy(update={"lora_rank": 0, "learning_rate": 1e-9})
    job = SftJob(role="policy", parent=str(adapted.path), settings=tiny, seed=0, examples=ROWS)
    whole = verify_checkpoint(job.run(Place(str(tmp_path / "whole"))).path)
    assert whole.adapter is None and whole.shards == ("model.safetensors",)
    torch.testing.assert_close(
        logits(load_model(whole)), logits(load_model(adapted)), atol=1e-3, rtol=1e-3
    )


def test_preferences_train_adapters(checkpoint: Path, tmp_path: Path) -> None:
    pairs = [
        PairExample((3 + i, 13, 3 + j, 2), (3 + i, 1), (3 + (i + 1) % 6, 1))
        for i in range(6)
        for j in range(6)
    ]
    job = DpoJob(
        role="policy",
        parent=str(checkpoint),
        settings=SETTINGS.model_copy(update={"num_steps": 40}),
        seed=0,
        pairs=pairs,
        texts=ROWS,
        preference=PreferenceSettings(reference_update="soft", reference_steps=30),
    )
    made = job.run(Place(str(tmp_path / "out")))
    assert made.report["accuracy"] > 0.75
    assert verify_checkpoint(made.path).adapter == AdapterShape(4, 8.0)


CRITIC_ROWS: dict[str, list[LabelledExample] | list[JudgedExample]] = {
    "value": [LabelledExample((3 + i, 13, 4, 2), (2, 3), (float(i % 2), 1.0)) for i in range(8)],
    "outcome": [JudgedExample((3 + i, 13, 4, 2), 2, i % 2 == 0) for i in range(8)],
}


@pytest.mark.parametrize("role", CRITIC_ROWS)
@pytest.mark.parametrize("tuned_layers", [0, 1])
def test_critics_are_adapters_on_the_policys_base(
    checkpoint: Path, tmp_path: Path, role: str, tuned_layers: int
) -> None:
    policy = verify_checkpoint(checkpoint)
    first = {
        made.role: made
        for made in initial_models(policy.ref("policy"), Place(str(tmp_path)), lora_rank=4)
    }
    rows = list(CRITIC_ROWS[role])
    job = CriticJob(
        role=role,
        parent=first[role].path,
        settings=SETTINGS,
        seed=0,
        split=Split(train=rows, held_out=rows),
        tuned_layers=tuned_layers,
    )
    critic = verify_checkpoint(job.run(Place(str(tmp_path))).path)
    assert critic.whole.version == policy.version
    started = load_model(verify_checkpoint(first[role].path))
    changed = {
        started.block_of(name)
        for (name, old), new in zip(
            started.named_parameters(), load_model(critic).parameters(), strict=True
        )
        if not torch.equal(old, new)
    }
    num_layers = policy.architecture.num_layers
    blocks = set(range(num_layers - (tuned_layers or num_layers), num_layers))
    assert changed == (blocks | {num_layers} if role == "value" else blocks)


def test_a_drafter_is_adapters_on_the_first_half_of_the_base(
    adapted: Checkpoint, tmp_path: Path
) -> None:
    job = DrafterJob(
        role="drafter", parent=str(adapted.path), settings=SETTINGS, seed=0, examples=ROWS
    )
    drafter = verify_checkpoint(job.run(Place(str(tmp_path / "out"))).path)
    assert drafter.architecture.num_layers == adapted.architecture.num_layers // 2
    assert drafter.whole.version == adapted.whole.version
    assert 0 < drafter.num_bytes < adapted.num_bytes


def test_five_roles_are_held_on_one_base(
    adapted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "LARGE", 1)
    policy = adapted.ref("policy")
    made = initial_models(policy, Place(str(tmp_path / "roles")), lora_rank=4)
    hosts = InlineHosts(HostSettings())
    for ref in (policy, *(each.ref() for each in made)):
        hosts.load(ref)
    networks = [
        next(iter(host._models.values()))[1].network  # type: ignore[attr-defined]
        for host in hosts._hosts().values()
    ]
    assert len(networks) == 5
    assert len({id(network.embedding) for network in networks}) == 1
    for number in range(adapted.architecture.num_layers):
        at = [network.layers[number] for network in networks if number < len(network.layers)]
        assert len(at) >= 4 and len({id(layer) for layer in at}) == 1
    assert all(network.adapters[0].qkv is not None for network in networks)
    del networks, at
    hosts.close()
    gc.collect()
    assert len(hosts._policy.shared._alive) == 0
    written = sum(each.num_bytes for each in made)
    assert written < adapted.whole.num_bytes


def test_another_rank_is_refused_before_anything_is_loaded(adapted: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match=r"rank 4, and training\.lora_rank is 8") as told:
        check_adapters(PolicyTraining(lora_rank=8), adapted)
    assert "training.lora_rank to 4" in told.value.fix
    check_adapters(PolicyTraining(lora_rank=4), adapted)
    check_adapters(PolicyTraining(), adapted)


def test_trl_does_not_go_on_from_adapters(adapted: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="TRL goes on from whole weights"):
        check_adapters(PolicyTraining(lora_rank=4, trainer="trl"), adapted)


def other_base(adapted: Checkpoint, folder: Path) -> Checkpoint:
    """A policy of the same shape with other weights."""
    model = load_model(adapted.whole)
    with torch.no_grad():
        model.head[0] += 1
    return publish(model, adapted.whole, folder, "policy", {})


def low(parent: Checkpoint, folder: Path) -> Path:
    """The same policy with bfloat16 on disk, as a pretrained one has it."""
    model = load_model(parent)
    return publish(model, parent, folder, "policy", {}, torch.bfloat16).path


LOW = SETTINGS.model_copy(update={"dtype": "bfloat16"})
STATES = [StoredState((3 + i, 13, 4, 2), 4) for i in range(6)]


@pytest.mark.parametrize("kind", ["sft", "dpo", "drafter", "dr-po", "tree-pg", "checker"])
def test_every_job_trains_adapters_on_weights_in_bfloat16(
    checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    parent = low(verify_checkpoint(checkpoint), tmp_path / "low")
    assert adapted_model(verify_checkpoint(parent), LOW, 0, "cpu").head.dtype == torch.bfloat16
    given: dict[str, Any] = {"role": "policy", "parent": str(parent), "settings": LOW, "seed": 0}
    if kind == "sft":
        job: LoopJob = SftJob(**given, examples=ROWS, dev=ROWS[:4])
    elif kind == "drafter":
        job = DrafterJob(**given, examples=ROWS)
    elif kind == "dpo":
        pairs = [PairExample((3 + i, 13, 4, 2), (3 + i, 1), (4 + i, 1)) for i in range(6)]
        job = DpoJob(**given, pairs=pairs, texts=ROWS, preference=PreferenceSettings())
    elif kind == "tree-pg":
        groups = [SiblingSteps((3 + i, 13, 4, 2), ((3, 1), (4, 1)), (1.0, 0.0)) for i in range(6)]
        job = TreePgJob(**given, siblings=groups, texts=ROWS, text_weight=1.0, clip=Clip())
    elif kind == "dr-po":
        (critic,) = (
            made.path
            for made in initial_models(
                verify_checkpoint(parent).ref("policy"), Place(str(tmp_path / "c")), lora_rank=4
            )
            if made.role == "outcome"
        )
        settings = LOW.model_copy(update={"num_steps": 2})
        gradient = GradientSettings(num_states=2, num_texts=2, max_tokens=4)
        job = DrPoJob(
            **given | {"settings": settings}, critic=critic, states=STATES, gradient=gradient
        )
    else:
        questions = ["3+4", "5+2", "2*3"]
        held_out = [JudgedText((), True), JudgedText(None, False)]
        job = CheckerJob(**given, questions=questions, held_out=held_out)
    made = job.run(Place(str(tmp_path / "out")))
    assert verify_checkpoint(made.path).adapter == AdapterShape(4, 8.0)


def rewritten(adapted: Checkpoint, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """The adapters' file changed by a stranger."""
    file = adapted.path / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    (adapted.path / "manifest.json").unlink()
    return adapted.path


NORM = "base_model.model.model.norm.weight"
FIRST = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight"
STRANGE: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "model.norm.weight of shape": lambda t: t.update({NORM: torch.ones(16)}),
    "is missing": lambda t: t.pop(FIRST),
    "does not begin with": lambda t: t.update({"x": torch.ones(2)}),
}


@pytest.mark.parametrize("told", STRANGE)
def test_a_file_of_adapters_holds_all_of_them_and_nothing_else(
    adapted: Checkpoint, told: str
) -> None:
    with pytest.raises(CheckpointError, match=told):
        verify_checkpoint(rewritten(adapted, STRANGE[told]))


def test_adapters_of_another_network_than_their_base_are_refused(adapted: Checkpoint) -> None:
    file = adapted.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.5}))
    (adapted.path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="of another network than its base"):
        verify_checkpoint(adapted.path)


@pytest.mark.parametrize("path", ["", ".", "x" * 5_000, "\0"])
def test_a_base_that_cannot_be_one_is_refused(adapted: Checkpoint, path: str) -> None:
    with pytest.raises(CheckpointError, match="is not there"):
        verify_checkpoint(renamed(adapted, path))


def test_adapters_that_name_each_other_are_refused(adapted: Checkpoint, tmp_path: Path) -> None:
    other = sft(adapted.path, tmp_path / "further")
    renamed(other, adapted.path)
    with pytest.raises(CheckpointError, match="holds adapters itself"):
        verify_checkpoint(renamed(adapted, other.path))


def test_a_merged_role_is_a_known_one(adapted: Checkpoint, tmp_path: Path) -> None:
    file = adapted.path / "ratchet.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"role": "/tmp/x"}))
    (adapted.path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="has role '/tmp/x'"):
        merge_into(adapted.path, tmp_path / "whole")


def test_copied_adapters_bring_a_base_that_was_beside_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(checkpoint, folder / "base")
    adapted = sft(folder / "base", folder)
    there = copied(adapted, tmp_path / "elsewhere", "policy")
    shutil.rmtree(folder)
    assert there.version == adapted.version
    assert verify_checkpoint(there.path).whole.path.resolve() == tmp_path / "elsewhere" / "base"


def test_roles_of_adapters_that_are_only_asked_are_adapters_too(
    adapted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.open_models.base_refs", lambda _: {"policy": adapted.ref("policy")})
    refs = _base_models(load_config({})[0], str(tmp_path / "scratch"))
    assert all(ref.header.adapter == AdapterShape(4, 8.0) for ref in refs.values())


def renamed(adapted: Checkpoint, path: Path | str) -> Path:
    """The adapters with another directory named as their base."""
    file = adapted.path / "ratchet.json"
    notes = json.loads(file.read_text())
    notes["base"]["path"] = str(path)
    file.write_text(json.dumps(notes))
    (adapted.path / "manifest.json").unlink()
    return adapted.path


def test_adapters_of_another_base_are_refused_by_name(adapted: Checkpoint, tmp_path: Path) -> None:
    other = other_base(adapted, tmp_path / "other")
    with pytest.raises(CheckpointError) as told:
        verify_checkpoint(renamed(adapted, other.path))
    assert adapted.whole.version in told.value.message and other.version in told.value.message


def test_a_base_that_is_gone_is_named(adapted: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the base of the adapters in .* is not there"):
        verify_checkpoint(renamed(adapted, tmp_path / "gone"))


def test_a_base_beside_its_adapters_moves_with_them(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(checkpoint, folder / "base")
    adapted = sft(folder / "base", folder)
    version = adapted.version
    folder.rename(tmp_path / "moved")
    found = verify_checkpoint(tmp_path / "moved" / adapted.path.name)
    assert found.version == version and found.whole.path.resolve().parent == tmp_path / "moved"


def test_adapters_on_adapters_are_refused(adapted: Checkpoint, tmp_path: Path) -> None:
    further = sft(adapted.path, tmp_path / "further")
    with pytest.raises(CheckpointError, match="holds adapters itself"):
        verify_checkpoint(renamed(further, adapted.path))


WRONG = {
    "r": (0, "whole number"),
    "lora_alpha": ("2", "number"),
    "peft_type": ("IA3", "not computed"),
    "use_dora": (True, "not computed"),
    "use_rslora": (True, "not computed"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_is_not_computed_is_refused(adapted: Checkpoint, key: str) -> None:
    value, told = WRONG[key]
    file = adapted.path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    (adapted.path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=told):
        verify_checkpoint(adapted.path)


def test_a_config_of_another_rank_does_not_fit_the_weights(adapted: Checkpoint) -> None:
    file = adapted.path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 8}))
    (adapted.path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="do not fit their base"):
        verify_checkpoint(adapted.path)


def test_merged_weights_are_a_checkpoint_of_their_own(adapted: Checkpoint, tmp_path: Path) -> None:
    whole = merge_into(adapted.path, tmp_path / "whole")
    assert whole.adapter is None and "base" not in whole.notes
    assert whole.report == adapted.report
    torch.testing.assert_close(
        logits(load_model(whole)), logits(load_model(adapted)), atol=1e-4, rtol=1e-4
    )
    assert {file.name for file in tmp_path.iterdir()} >= {"whole"}
    assert not list(tmp_path.glob(".writing*"))
    with pytest.raises(UsageError, match="already there"):
        merge_into(adapted.path, tmp_path / "whole")
    with pytest.raises(CheckpointError, match="whole weights already"):
        merge_into(whole.path, tmp_path / "more")


def test_alpha_is_part_of_the_version(adapted: Checkpoint) -> None:
    file = adapted.path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 99.0}))
    (adapted.path / "manifest.json").unlink()
    assert verify_checkpoint(adapted.path).version != adapted.version


def test_a_killed_training_of_adapters_goes_on_to_the_same_weights(
    checkpoint: Path, tmp_path: Path, adapted: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agent.training import resume

    class Killed(Exception):
        pass

    job = SftJob(
        role="policy",
        parent=str(checkpoint),
        settings=SETTINGS,
        seed=0,
        examples=ROWS,
        resume_file=str(tmp_path / "state.safetensors"),
    )
    monkeypatch.setattr(resume, "EVERY_S", 0.0)
    saved = resume.Resume.save

    def dying(self: resume.Resume, *given: object) -> None:
        self.every_s = 0.0
        saved(self, *given)  # type: ignore[arg-type]
        if len(given[-1]) == 5:  # type: ignore[arg-type]
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(resume.Resume, "save", dying)
        with pytest.raises(Killed):
            job.run(Place(str(tmp_path / "killed")))
    state = load_file(tmp_path / "state.safetensors")
    assert all(".lora_" in name for name in state if name.startswith("weight."))
    made = job.run(Place(str(tmp_path / "killed")))
    assert made.version == adapted.version
