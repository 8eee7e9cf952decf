"""bfloat16: where it is taken, and how far from float32 it may be."""

import json
from pathlib import Path

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.requests import CompletionRequest, OptionRequest, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.networks import device
from agent.networks.device import LARGE, chosen_dtype
from tests.agent.chat import write_chat_model


@pytest.mark.parametrize(
    ("name", "on", "size", "is_fast", "expected"),
    [
        ("auto", "cpu", LARGE, True, torch.bfloat16),
        ("auto", "cpu", LARGE - 1, True, torch.float32),
        ("auto", "cpu", LARGE, False, torch.float32),
        ("auto", "cuda", 1, False, torch.bfloat16),
        ("float32", "cuda", LARGE, True, torch.float32),
        ("bfloat16", "cpu", 1, False, torch.bfloat16),
    ],
)
def test_auto_takes_bfloat16_for_large_models_where_the_processor_multiplies_it(
    name: str,
    on: str,
    size: int,
    is_fast: bool,
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "multiplies_bfloat16", lambda: is_fast)
    assert chosen_dtype(name, on, size) == expected


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("low"), hidden_size=64, head_dim=32)


def engine(model: Path, dtype: torch.dtype) -> TorchEngine:
    tokenizer = Tokenizer(model)
    weights = load_model(verify_checkpoint(model), dtype)
    return TorchEngine(weights, tokenizer.steps, tokenizer.end_ids)


def test_scores_in_bfloat16_are_near_those_in_float32(model: Path) -> None:
    rows = [ScoreRequest(tuple(range(4, 4 + n)), 3) for n in (5, 9, 30, 200)]
    whole, low = (engine(model, d).score(rows) for d in (torch.float32, torch.bfloat16))
    flat = [torch.tensor([x for row in found for x in row]) for found in (whole, low)]
    gap = (flat[0] - flat[1]).abs()
    assert float(gap.mean()) < 0.02 and float(gap.max()) < 0.15
    assert float(gap.max()) > 0  # it is another type


def test_in_bfloat16_decoding_and_scoring_agree(model: Path) -> None:
    ours = engine(model, torch.bfloat16)
    made = ours.completions([CompletionRequest((4, 5, 6), 20, 1.0, i) for i in range(8)])
    texts = [m.generated for m in made]
    scored = ours.score([ScoreRequest((4, 5, 6, *t.tokens), 3) for t in texts])
    for text, found in zip(texts, scored, strict=True):
        assert found == pytest.approx(text.logprobs, abs=0.05)


def test_options_in_bfloat16_are_finite_and_ordered(model: Path) -> None:
    ours = engine(model, torch.bfloat16)
    asked = [OptionRequest((4, 5, 6), 5, 2)]
    (found,) = ours.options(asked)
    totals = [sum(o.logprobs) for o in found.options]
    assert len(totals) == 5 and totals == sorted(totals, reverse=True)


def test_a_host_holds_weights_in_the_type_that_is_set_and_says_so(model: Path) -> None:
    ref = verify_checkpoint(model).ref("policy")
    for name in ("float32", "bfloat16"):
        hosts = InlineHosts(HostSettings(dtype=name))
        hosts.load(ref)
        assert hosts.health()["policy"]["dtypes"] == {ref.version: name}
        hosts.close()


def test_loading_makes_no_weights_of_its_own(model: Path) -> None:
    loaded = load_model(verify_checkpoint(model), torch.bfloat16)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    tied = write_chat_model(model.parent / "tied", tie_word_embeddings=True)
    config = json.loads((tied / "config.json").read_text())
    assert config["tie_word_embeddings"]
    again = load_model(verify_checkpoint(tied))
    assert again.head is again.model.embed_tokens.weight


def test_the_likeliest_logits_are_those_of_float32(model: Path) -> None:
    network = engine(model, torch.bfloat16).network
    hidden = torch.randn(6, network.arch.hidden_size).bfloat16() * 4
    found = network.logits(hidden)
    exact = hidden.float() @ network.head.float()
    near = exact >= exact.amax(dim=1, keepdim=True) - 3.5
    assert torch.allclose(found[near], exact[near], atol=1e-4)
    assert torch.equal(found.argmax(dim=1), exact.argmax(dim=1))
    flat = network.logits(torch.zeros(2, network.arch.hidden_size).bfloat16())
    assert torch.equal(flat, torch.zeros_like(flat))  # nothing is a few: left as it is
