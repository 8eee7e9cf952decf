"""Megalodon networks: counts as published, states that cut no text, and the engine's rules."""

import json
import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.settings import PolicyTraining
from agent.engine.draft_choice import Drafter
from agent.engine.drafting import ModelDrafts
from agent.engine.requests import CompletionRequest, OptionRequest, ScoreRequest
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import PolicyHost
from agent.networks.architecture import Architecture
from agent.networks.megalodon import ComplexEma, MegalodonDecoder, StreamState, TimestepNorm
from agent.networks.registry import laid_out
from agent.networks.shapes import parameter_shapes
from agent.training.critic_job import CriticJob
from agent.training.examples import Example, LabelledExample
from agent.training.job import Place
from agent.training.labelling import Split
from agent.training.logprobs import counted_logprobs
from agent.training.methods.sft import SftJob
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import check_adapters
from search.errors import CheckpointError
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine

TINY = {
    "architectures": ["MegalodonForCausalLM"],
    "model_type": "megalodon",
    "vocab_size": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "z_dim": 64,
    "value_dim": 128,
    "cema_ndim": 4,
    "norm_num_groups": 8,
    "chunk_size": 16,
    "swiglu": True,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}


def network(seed: int = 0, **changes: Any) -> MegalodonDecoder:
    torch.manual_seed(seed)
    model = MegalodonDecoder(Architecture.from_config(TINY | changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gain", "_bias", "norm.weight", "norm.bias")):
                parameter.normal_(std=0.2)  # nothing that could be left out unseen
            if "embed" in name:
                parameter.mul_(0.1)
    return model.eval()


def written(path: Path, seed: int = 0, **changes: Any) -> Path:
    """The same as a checkpoint, with the tokenizer of `expressions`."""
    write_checkpoint(path)
    model = network(seed, **changes)
    (path / "config.json").write_text(json.dumps(TINY | changes))
    tensors = {k: v.detach().clone() for k, v in model.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    ("layers", "size", "z", "value", "inner", "groups", "heads", "gated", "published"),
    [
        (32, 4096, 1024, 8192, 8192, 64, 4, True, 7_385_817_088),
        (24, 2048, 512, 4096, 4864, 64, 2, False, 1_342_832_640),
        (12, 1024, 256, 2048, 2560, 32, 1, False, 220_627_968),
    ],
)
def test_published_numbers_of_parameters_are_reproduced(
    layers: int,
    size: int,
    z: int,
    value: int,
    inner: int,
    groups: int,
    heads: int,
    gated: bool,
    published: int,
) -> None:
    sizes = {
        "vocab_size": 32_000,
        "hidden_size": size,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "z_dim": z,
        "value_dim": value,
        "cema_ndim": 16,
        "norm_num_groups": groups,
        "chunk_size": 2048,
        "swiglu": gated,
        "tie_word_embeddings": False,
    }
    arch = Architecture.from_config(TINY | sizes)
    with torch.device("meta"):
        model = MegalodonDecoder(arch)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == parameter_shapes(arch, False)
    assert sum(math.prod(shape) for shape in shapes.values()) == published


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_however_a_text_is_cut_its_states_are_the_same(dtype: torch.dtype, bound: float) -> None:
    model = network().to(dtype)
    tokens = torch.randint(0, 16, (2, 393), generator=torch.Generator().manual_seed(1))
    rng = random.Random(2)
    with torch.no_grad():
        whole, end = model.stream(tokens)
        assert torch.equal(whole, model(tokens))
        for _ in range(50):
            cuts = [0, *sorted(rng.sample(range(1, 393), rng.randint(1, 9))), 393]
            state, parts = None, []
            for begin, stop in pairwise(cuts):
                hidden, state = model.stream(tokens[:, begin:stop], state)
                parts.append(hidden)
            assert float((torch.cat(parts, dim=1) - whole).abs().max()) < bound
            assert state is not None
            for ours, theirs in zip(numbers_of(state), numbers_of(end), strict=True):
                assert float((ours - theirs).abs().max()) < 10 * bound


def numbers_of(state: StreamState) -> list[Tensor]:
    found = [state.last.mean, state.last.variance, state.last.count.double()]
    for block in state.blocks:
        found += [block.moments.mean, block.moments.variance, block.average.abs(), block.values]
    return found


def token_by_token(ema: ComplexEma, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    p, log_size, phase, re, im = ema.coefficients()
    q, eta = torch.polar(log_size.exp(), phase), torch.complex(re, im)
    out = []
    for t in range(x.shape[1]):
        h = q * h + p * x[:, t, :, None]
        out.append((eta * h).real.sum(dim=-1) + ema.omega * x[:, t])
    return torch.stack(out, dim=1), h


def test_gradients_of_the_average_are_those_of_a_loop_over_tokens() -> None:
    """With a carried state and several rows: the official kernel had these wrong for a year."""
    torch.manual_seed(0)
    ema = ComplexEma(6, 4).double()
    x = torch.randn(3, 40, 6, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, 6, 4, dtype=torch.complex128, requires_grad=True)
    weight, last = torch.randn(3, 40, 6).double(), torch.randn(3, 6, 4, dtype=torch.complex128)
    inputs = [x, h, *ema.parameters()]
    found = []
    for run in (ema, lambda x, h: token_by_token(ema, x, h)):
        y, after = run(x, h)
        loss = (y * weight).sum() + (after * last).real.sum()
        found.append((y, torch.autograd.grad(loss, inputs)))
    assert float((found[0][0] - found[1][0]).detach().abs().max()) < 1e-10
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        assert float((ours - theirs).abs().max()) < 1e-8


def test_moments_keep_their_digits_where_a_mean_is_large() -> None:
    """A running sum of squares in float32 has lost three digits there."""
    torch.manual_seed(0)
    x = torch.randn(1, 2_000, 16) + 100
    norm = TimestepNorm(16, 4)
    with torch.no_grad():
        low, _ = norm(x)
        high, _ = norm.double()(x.double())
    assert float((low - high).abs().max()) < 1e-4


def test_the_state_does_not_grow_with_what_was_read() -> None:
    model = network()
    sizes, state = {}, None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(64):
            tokens = torch.randint(0, 16, (1, 1024), generator=generator)
            hidden, state = model.stream(tokens, state)
            sizes[int(state.last.count)] = state.num_bytes
    assert list(sizes)[-1] == 65_536 and len(set(sizes.values())) == 1
    assert torch.isfinite(hidden).all()


def test_a_checkpoint_is_loaded_published_cut_and_made_a_critic(tmp_path: Path) -> None:
    checkpoint = verify_checkpoint(written(tmp_path / "p"))
    model = load_model(checkpoint)
    tokens = torch.randint(0, 16, (1, 30))
    with torch.no_grad():
        again = load_model(publish(model, checkpoint, tmp_path, "policy", {}))
        assert torch.equal(model(tokens), again(tokens))
        cut = model.first_layers(1)
        assert cut.arch.num_layers == 1 and cut.head.data_ptr() != model.head.data_ptr()
        drafter = verify_checkpoint(publish(cut, checkpoint, tmp_path, "drafter", {}).path)
        assert load_model(drafter).arch == replace(model.arch, num_layers=1)
        critic = model.as_critic()
        assert critic.logits(critic(tokens)).abs().max() == 0
        assert verify_checkpoint(publish(critic, checkpoint, tmp_path, "value", {}).path).is_critic


def prompts(lengths: list[int]) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    return [tuple(rng.randint(3, 15) for _ in range(n)) for n in lengths]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_bit_of_a_recurrent_policys_text_depends_on_batch_cuts_or_drafts(
    tmp_path: Path, temperature: float, heads: int
) -> None:
    found = engine(written(tmp_path / "p", 3, num_attention_heads=heads))
    other = engine(written(tmp_path / "d", 4, num_attention_heads=heads))
    rows = prompts([3, 15, 16, 17, 40, 90, 140])
    requests = [CompletionRequest(row, 40, temperature, i) for i, row in enumerate(rows)]
    together = [t.generated for t in found.completions(requests)]
    found.forget()
    assert [found.completions([r])[0].generated for r in requests] == together
    found.score([ScoreRequest(row, 1) for row in rows])
    assert [t.generated for t in found.completions(requests)] == together  # kept prefixes
    for drafts in (found, other):  # nearly always right, and nearly never
        drafter = Drafter([ModelDrafts(drafts.network, "d", 2**24)], 4, "always")
        assert [t.generated for t in found.completions(requests, drafter)] == together
    assert sum(len(t.tokens) for t in together) > 100


def test_the_engine_scores_a_recurrent_policys_texts_as_training_does(tmp_path: Path) -> None:
    path = written(tmp_path / "p")
    found, model = engine(path), load_model(verify_checkpoint(path))
    (stem,) = prompts([50])
    # Rows of one tree: they share a beginning and part within a chunk and at its end.
    rows = [(*stem[:n], 3 + i, 5, 7, 9) for i, n in enumerate((10, 10, 16, 32, 33, 50))]
    scores = found.score([ScoreRequest(row, 1) for row in rows])
    with torch.no_grad():
        for row, ours in zip(rows, scores, strict=True):
            theirs = counted_logprobs(model, [row], [1]).logprob_N
            assert torch.tensor(ours) == pytest.approx(theirs, abs=1e-4)


def test_options_of_a_recurrent_policy_have_the_probabilities_of_their_texts(
    tmp_path: Path,
) -> None:
    found = engine(written(tmp_path / "p"))
    rows = prompts([14, 30, 45])
    options = found.options([OptionRequest(row, 5, 12) for row in rows])
    for row, answer in zip(rows, options, strict=True):
        assert len(answer.options) == 5
        for option in answer.options:
            (scores,) = found.score([ScoreRequest(row + option.tokens, len(row))])
            assert scores == pytest.approx(option.logprobs, abs=1e-4)
    more = found.options([OptionRequest(row, 8, 12) for row in rows])
    for few, many in zip(options, more, strict=True):
        assert many.options[: len(few.options)] == few.options


def test_a_recurrent_critic_scores_what_it_reads(tmp_path: Path) -> None:
    path = verify_checkpoint(written(tmp_path / "p"))
    critic = load_model(path).as_critic()
    with torch.no_grad():
        torch.nn.init.normal_(critic.get_parameter("score.weight"))
    made = publish(critic, path, tmp_path, "value", {})
    judge = engine(made.path)
    rows = prompts([5, 20, 60])
    found = judge.last_logits(rows)[:, 0]
    with torch.no_grad():
        wanted = [float(critic.logits(critic(torch.tensor([row]))[0, -1])) for row in rows]
    assert found.tolist() == pytest.approx(wanted, abs=1e-4)


def test_jobs_train_a_recurrent_policy_and_its_value_critic(tmp_path: Path) -> None:
    path = written(tmp_path / "p")
    settings = TrainingSettings(num_steps=12, batch_size=4, learning_rate=3e-3, optimizer="muon")
    texts = [Example((3 + i, 13, 4, 2, 8, 1), 2) for i in range(8)]
    given: dict[str, Any] = {"parent": str(path), "settings": settings, "seed": 0}
    made = SftJob(role="policy", **given, examples=texts).run(Place(str(tmp_path / "out")))
    assert made.report["last_loss"] < made.report["first_loss"] - 0.3
    rows = [LabelledExample((3 + i, 13, 4 + i % 2), (2,), (float(i % 2),)) for i in range(12)]
    critic = load_model(verify_checkpoint(path)).as_critic()
    first = publish(critic, verify_checkpoint(path), tmp_path / "c", "value", {})
    job = CriticJob(role="value", **given, split=Split(rows, rows))
    taught = replace(job, parent=str(first.path)).run(Place(str(tmp_path / "value")))
    assert taught.report["num_examples"] == 12


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"z_dim": None}, "no 'z_dim'"),
        ({"chunk_size": 0}, "chunk_size 0"),
        ({"z_dim": 30}, "z_dim 30 for 4 heads"),
        ({"norm_num_groups": 7}, "7 norm groups of 64 features"),
        ({"swiglu": "yes"}, "swiglu 'yes'"),
    ],
)
def test_a_config_that_no_such_network_has_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        Architecture.from_config(TINY | {"num_attention_heads": 4} | changes)


def test_weights_of_another_shape_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "p")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"cema_ndim": 8}))
    with pytest.raises(CheckpointError, match="cema"):
        verify_checkpoint(path)


@pytest.mark.parametrize("changes", [{"lora_rank": 4}, {"trainer": "trl"}])
def test_what_cannot_train_a_recurrent_network_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    header = verify_checkpoint(written(tmp_path / "p"))
    with pytest.raises(CheckpointError, match="takes no adapters"):
        check_adapters(PolicyTraining(**changes), header)
    check_adapters(PolicyTraining(), header)


@pytest.mark.parametrize("sizes", [{"intermediate_size": 101}, {"value_dim": 130}])
def test_no_bit_depends_on_the_batch_at_odd_sizes_either(
    tmp_path: Path, sizes: dict[str, Any]
) -> None:
    found = engine(written(tmp_path / "p", 3, **sizes))
    requests = [CompletionRequest(row, 20, 1.0, i) for i, row in enumerate(prompts([3, 17, 40]))]
    together = [t.generated for t in found.completions(requests)]
    found.forget()
    assert [found.completions([r])[0].generated for r in requests] == together


def test_a_recurrent_network_that_was_held_in_few_bits_is_served_in_float32(
    tmp_path: Path,
) -> None:
    model = load_model(verify_checkpoint(written(tmp_path / "p")), torch.bfloat16)
    served = laid_out(model)
    assert served.dtype == torch.float32 and model.head.dtype == torch.bfloat16
    host = PolicyHost("policy", HostSettings(dtype="bfloat16"))
    ref = verify_checkpoint(tmp_path / "p").ref("policy")
    host.completions(ref, [CompletionRequest((3, 4), 2, 0.0)])
    assert set(host.health()["dtypes"].values()) == {"float32"}


def test_a_component_that_forgets_at_once_is_no_nan() -> None:
    model = network()
    with torch.no_grad():
        for block in model.blocks:
            block.get_parameter("cema.alpha").fill_(18)
            block.get_parameter("cema.delta").fill_(18)
        assert torch.isfinite(model(torch.randint(0, 16, (1, 40)))).all()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (TINY | {"num_key_value_heads": 1}, "num_key_value_heads 1, which networks"),
        (TINY | {"attention_bias": True}, "attention_bias True, which networks"),
        (TINY | {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "need none"),
        (
            {k: v for k, v in TINY.items() if k not in ("z_dim", "value_dim", "cema_ndim")}
            | {"model_type": "llama"},
            "which networks of model_type 'llama' do not have",
        ),
    ],
)
def test_what_one_family_has_the_other_is_refused_with(config: dict[str, Any], told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        Architecture.from_config(config)


def test_heads_of_an_odd_width_are_no_fault_where_keys_have_their_own() -> None:
    sizes = {"hidden_size": 66, "norm_num_groups": 6}
    assert Architecture.from_config(TINY | sizes).megalodon is not None
