"""Blocks of equal weights: held once in a process, mapped from one file by several."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.memory import return_freed
from agent.engine.option_ends import Steps
from agent.engine.requests import CompletionRequest
from agent.engine.torch_engine import TorchEngine
from agent.hosting import model_host
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.networks import shared_blocks
from agent.networks.llama import Decoder
from agent.networks.llama_inference import LlamaInference
from agent.networks.shared_blocks import SharedBlocks, clear
from agent.training.initial import initial_models
from agent.training.job import Place
from tests.agent.networks.llama import write_text_checkpoint

ASKED = [CompletionRequest((5 + i, 13, 4), 6, 1.0, i) for i in range(5)]


def written(model: object, shared: SharedBlocks | None) -> list[tuple[int, ...]]:
    engine = TorchEngine(model, Steps.none, (), shared=shared)  # type: ignore[arg-type]
    return [text.generated.tokens for text in engine.completions(ASKED)]


def laid_out(folder: Path, shared: SharedBlocks, dtype: torch.dtype) -> LlamaInference:
    model = load_model(verify_checkpoint(folder), dtype)
    assert isinstance(model, Decoder)
    return LlamaInference(model, shared)


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def test_equal_blocks_are_the_same_tensors(checkpoint: Path, dtype: torch.dtype) -> None:
    shared = SharedBlocks()
    one, other = (laid_out(checkpoint, shared, dtype) for _ in range(2))
    assert one.embedding is other.embedding
    assert all(a is b for a, b in zip(one.layers, other.layers, strict=True))


def test_a_changed_block_is_the_models_own(checkpoint: Path) -> None:
    shared = SharedBlocks()
    plain = load_model(verify_checkpoint(checkpoint))
    changed = load_model(verify_checkpoint(checkpoint))
    assert isinstance(plain, Decoder) and isinstance(changed, Decoder)
    with torch.no_grad():
        changed.model.layers[-1].mlp.up_proj.weight[0, 0] += 1  # type: ignore[index,union-attr]
    one, other = LlamaInference(plain, shared), LlamaInference(changed, shared)
    assert [a is b for a, b in zip(one.layers, other.layers, strict=True)].count(False) == 1
    assert one.layers[-1] is not other.layers[-1]


def test_blocks_go_with_the_last_model_that_uses_them(checkpoint: Path) -> None:
    shared = SharedBlocks()
    one = laid_out(checkpoint, shared, torch.float32)
    other = laid_out(checkpoint, shared, torch.float32)
    assert len(shared._alive) == len(one.layers) + 2  # embeddings and head
    del one
    gc.collect()
    assert len(shared._alive) == len(other.layers) + 2
    del other
    gc.collect()
    assert len(shared._alive) == 0


@pytest.mark.parametrize("has_folder", [False, True])
def test_shared_blocks_write_the_same_texts(
    checkpoint: Path, tmp_path: Path, dtype: torch.dtype, has_folder: bool
) -> None:
    shared = SharedBlocks(tmp_path if has_folder else None)
    model = load_model(verify_checkpoint(checkpoint), dtype)
    alone = written(model, None)
    assert written(model, shared) == alone
    assert written(model, shared) == alone  # now from what is held, or from the files
    assert bool(list(tmp_path.glob("*.safetensors"))) is has_folder


def test_another_process_maps_the_files_and_may_outlive_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "blocks"
    folder.mkdir()
    model = load_model(verify_checkpoint(checkpoint))
    engine = TorchEngine(model, Steps.none, (), shared=SharedBlocks(folder))
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.agent.networks.test_shared_blocks import written\n"
        "from agent.checkpoints.checkpoint import verify_checkpoint\n"
        "from agent.checkpoints.weights import load_model\n"
        "from agent.networks.shared_blocks import SharedBlocks\n"
        "model = load_model(verify_checkpoint(sys.argv[1]))\n"
        "print(written(model, SharedBlocks(Path(sys.argv[2]))))"
    )
    asked = [sys.executable, "-c", code, str(checkpoint), str(folder)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    clear(folder)
    assert list(folder.iterdir()) == []
    here = [text.generated.tokens for text in engine.completions(ASKED)]
    assert done.stdout.strip() == str(here)


def test_a_folder_that_is_not_there_is_done_without(checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(verify_checkpoint(checkpoint))
    assert written(model, SharedBlocks(tmp_path / "not here")) == written(model, None)


def test_five_roles_hold_what_they_have_in_common_once_and_give_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_host, "LARGE", 1)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"question": "how many apples are in the box"}\n' * 300)
    policy = verify_checkpoint(write_text_checkpoint(tmp_path / "policy", corpus)).ref("policy")
    made = initial_models(policy, Place(str(tmp_path / "made")), tuned_layers=1)
    hosts = InlineHosts(HostSettings())
    for ref in (policy, *(each.ref() for each in made)):
        hosts.load(ref)
    shared = hosts._policy.shared
    # Two blocks, the embeddings and the head: nothing was trained yet, so the critics' last blocks
    # and the drafter's only one are the policy's, too.
    assert len(shared._alive) == 4
    assert hosts.health()["policy"]["versions"] == [policy.version]
    hosts.release()
    gc.collect()
    assert len(shared._alive) == 0 and hosts.health()["policy"]["versions"] == []
    hosts.load(policy)
    assert hosts.health()["policy"]["versions"] == [policy.version]
    hosts.close()


def test_small_models_stay_when_memory_is_asked_for(checkpoint: Path) -> None:
    hosts = InlineHosts(HostSettings())
    policy = verify_checkpoint(checkpoint).ref("policy")
    hosts.load(policy)
    hosts.release()
    assert hosts.health()["policy"]["versions"] == [policy.version]
    hosts.close()


def test_another_c_library_is_not_asked_to_give_back_what_was_freed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    class Other:
        def __getattr__(self, name: str) -> object:
            asked.append(name)
            raise AttributeError(name)

    monkeypatch.setattr("ctypes.CDLL", lambda _: Other())
    return_freed()
    assert asked == ["malloc_trim"]


def test_weights_of_a_known_name_are_not_read_again(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = SharedBlocks()
    models = [load_model(verify_checkpoint(checkpoint)) for _ in range(2)]
    for model in models:
        model.base_version = "v1"
    assert isinstance(models[0], Decoder) and isinstance(models[1], Decoder)
    one = LlamaInference(models[0], shared)
    monkeypatch.setattr(shared_blocks, "_digest", lambda *_: pytest.fail("read again"))
    other = LlamaInference(models[1], shared)
    assert all(a is b for a, b in zip(one.layers, other.layers, strict=True))
    assert one.embedding is other.embedding and one.head is other.head


def test_a_name_does_not_hide_equal_weights_without_one(checkpoint: Path) -> None:
    shared = SharedBlocks()
    named, plain = (load_model(verify_checkpoint(checkpoint)) for _ in range(2))
    named.base_version = "v1"
    assert isinstance(named, Decoder) and isinstance(plain, Decoder)
    one, other = LlamaInference(named, shared), LlamaInference(plain, shared)
    assert all(a is b for a, b in zip(one.layers, other.layers, strict=True))
