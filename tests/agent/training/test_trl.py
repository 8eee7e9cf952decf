"""TRL and PEFT behind the same jobs: the loss falls, adapters merge, the engine serves them."""

import json
from pathlib import Path

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.requests import CompletionRequest
from agent.hosting.model_host import GeneratorHost, HostSettings
from agent.training.examples import Example, PairExample
from agent.training.job import Place
from agent.training.methods.trl_dpo import TrlDpoJob
from agent.training.methods.trl_sft import TrlSftJob
from agent.training.optimizer import TrainingSettings
from agent.training.trl_trainer import AdapterSettings

pytestmark = pytest.mark.round

pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")

SETTINGS = TrainingSettings(num_steps=20, batch_size=8, learning_rate=2e-2, max_epochs=100)
ROWS = [Example((3 + i, 13, 3 + j, 2, 3 + i, 1), 4) for i in range(6) for j in range(6)]
PAIRS = [
    PairExample((3 + i, 13, 3 + j, 2), (3 + i, 1), (3 + (i + 1) % 6, 1))
    for i in range(6)
    for j in range(6)
]


def sft(parent: Path, adapter: AdapterSettings) -> TrlSftJob:
    return TrlSftJob(
        role="policy",
        parent=str(parent),
        settings=SETTINGS,
        seed=0,
        adapter=adapter,
        examples=ROWS,
    )


def dpo(parent: Path, adapter: AdapterSettings) -> TrlDpoJob:
    settings = SETTINGS.model_copy(update={"learning_rate": 5e-3})
    return TrlDpoJob(
        role="policy",
        parent=str(parent),
        settings=settings,
        seed=0,
        adapter=adapter,
        pairs=PAIRS,
        beta=0.1,
    )


def logits(path: Path | str) -> torch.Tensor:
    decoder = load_model(verify_checkpoint(path))
    with torch.no_grad():
        found: torch.Tensor = decoder.lm_head(decoder(torch.tensor([[5, 13, 4, 2]])))
    return found


@pytest.mark.parametrize("rank", [0, 4])
def test_trl_lowers_the_loss_and_what_it_learned_is_served(
    checkpoint: Path, tmp_path: Path, rank: int
) -> None:
    place = Place(str(tmp_path / "out"), device="cpu")
    made = sft(checkpoint, AdapterSettings(rank)).run(place)
    assert made.report["last_loss"] < 0.8 * made.report["first_loss"]
    assert not torch.allclose(logits(made.path), logits(checkpoint), atol=1e-2)
    host = GeneratorHost("policy", HostSettings(device="cpu"))
    (text,) = host.completions(
        verify_checkpoint(made.path).ref("policy"), [CompletionRequest((5, 13, 4, 2), 8, 0.0)]
    )
    assert text.generated.version == made.version and text.generated.tokens
    again = sft(checkpoint, AdapterSettings(rank)).run(place)
    assert again.version == made.version


def test_the_adapter_beside_the_merged_weights_is_the_same_model(
    checkpoint: Path, tmp_path: Path
) -> None:
    import transformers
    from peft import PeftModel

    place = Place(str(tmp_path / "out"), device="cpu")
    made = sft(checkpoint, AdapterSettings(4)).run(place)
    adapter = tmp_path / "out" / f"adapter-{made.version}"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 4
    assert (adapter / "adapter_model.safetensors").is_file()
    base = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(base, adapter).eval()(torch.tensor([[5, 13, 4, 2]]))
    torch.testing.assert_close(logits(made.path), theirs.logits, atol=1e-4, rtol=1e-4)


def test_dpo_through_trl_prefers_the_chosen_option(checkpoint: Path, tmp_path: Path) -> None:
    place = Place(str(tmp_path / "out"), device="cpu")
    made = dpo(checkpoint, AdapterSettings()).run(place)
    assert made.report["last_loss"] < made.report["first_loss"]
    before, after = logits(checkpoint)[0, -1], logits(made.path)[0, -1]
    assert float(after[5] - after[6]) > float(before[5] - before[6])


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_adapters_on_quantized_weights_are_merged_into_whole_ones(
    checkpoint: Path, tmp_path: Path, method: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install -e '.[trl]'")
    place = Place(str(tmp_path / "out"), device="cpu")
    adapter = AdapterSettings(4, "nf4")
    if method == "sft":
        made = sft(checkpoint, adapter).run(place)
    else:
        made = dpo(checkpoint, adapter).run(place)
    before, after = parameters(checkpoint), parameters(made.path)
    assert made.report["quantization"] == "nf4"
    assert made.report["weight_bytes"] < 0.7 * sum(4 * p.numel() for p in before.values())
    assert made.report["last_loss"] < made.report["first_loss"]
    changed = {n for n, p in before.items() if not torch.equal(p, after[n])}
    assert changed and all("proj" in n for n in changed)  # the others kept all their bits
    host = GeneratorHost("policy", HostSettings(device="cpu"))
    (text,) = host.completions(
        verify_checkpoint(made.path).ref("policy"), [CompletionRequest((5, 13, 4, 2), 8, 0.0)]
    )
    assert text.generated.version == made.version and text.generated.tokens


def parameters(path: Path | str) -> dict[str, torch.Tensor]:
    return dict(load_model(verify_checkpoint(path)).named_parameters())
