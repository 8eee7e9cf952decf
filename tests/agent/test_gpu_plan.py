"""What a model would take of GPUs: against peaks that were measured, and what is said of it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from agent import trial
from agent.config.load import load_config
from agent.config.settings import PolicyTraining
from agent.gpu_plan import (
    BEST_BYTES,
    CONTEXT_BYTES,
    GPUS,
    Work,
    check_fits,
    check_served,
    first_fit,
    nearest_fit,
    num_parameters,
    serving,
    training_ways,
)
from agent.networks.architecture import Architecture
from agent.trial import check_memory
from search.errors import ResourceError
from tests.agent.networks.published import QWEN3_8B

GIB = 2**30
SMALL = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
BILLION = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 2_048,
    "intermediate_size": 8_192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}


def arch(config: dict[str, Any]) -> Architecture:
    return Architecture.from_config(config)


@pytest.mark.parametrize(
    ("config", "peak_gib", "tokens_per_s"), [(SMALL, 11.5, 143_100), (BILLION, 38.6, 48_550)]
)
def test_the_plan_is_near_to_what_was_measured(
    config: dict[str, Any], peak_gib: float, tokens_per_s: float
) -> None:
    """docs/results/gpu-2026-11-27.md: 48 rows of 256 tokens on an H200, nothing set aside to stop
    early by; the peak is of tensors, without CUDA's own."""
    way = training_ways(arch(config), GPUS["h200"], 1, Work(256, 48))[0]
    without = BEST_BYTES * num_parameters(arch(config)) + CONTEXT_BYTES
    assert (way.num_bytes - without) / GIB == pytest.approx(peak_gib, rel=0.1)
    if peak_gib > 20:  # a model of 135 million parameters leaves most of the card idle
        assert 48 * 256 / way.step_s == pytest.approx(tokens_per_s, rel=0.1)


def test_eight_billion_parameters_train_shared_or_as_adapters() -> None:
    ways = training_ways(arch(QWEN3_8B), GPUS["h100"], 8, Work(1_024, 64))
    assert [way.fits for way in ways] == [False, True, True]
    assert ways[1].parts["weights, gradients, moments"] == 2 * num_parameters(arch(QWEN3_8B))
    assert ways[2].parts["base"] == 2 * num_parameters(arch(QWEN3_8B))
    assert first_fit(ways) is ways[1]


def test_where_nothing_fits_the_nearest_plan_asks_for_more_gpus() -> None:
    large = arch(QWEN3_8B | {"hidden_size": 8_192, "num_hidden_layers": 160})
    assert not any(way.fits for way in training_ways(large, GPUS["h100"], 1, Work(512, 8)))
    found = nearest_fit(large, GPUS["h100"], 1, Work(512, 8))
    assert (
        found is not None
        and found[0] > 8
        and found[1].settings == (f"hosting.training_workers={found[0]}",)
    )
    assert nearest_fit(large, GPUS["h100"], 1, Work(512, 8), most_gpus=2) is None


def header(config: dict[str, Any]) -> Any:
    found = arch(config)
    return SimpleNamespace(
        path="m",
        architecture=found,
        num_parameters=num_parameters(found),
        config={"dtype": "bfloat16"},
        notes={},
        base=None,
    )


@pytest.mark.parametrize(
    ("num_gpus", "fix"),
    [(1, "fit: --set training.lora_rank=16"), (8, "fit: --set hosting.training_workers=8")],
)
def test_what_does_not_fit_is_refused_with_the_nearest_plan(num_gpus: int, fix: str) -> None:
    policy = header(QWEN3_8B)
    with pytest.raises(ResourceError, match="GiB of each GPU, and H100 has") as told:
        check_fits(policy, GPUS["h100"], num_gpus, 1, PolicyTraining())
    assert fix in told.value.fix
    check_fits(policy, GPUS["h100"], 1, 1, PolicyTraining(lora_rank=16))
    check_fits(policy, GPUS["h100"], 8, 8, PolicyTraining())


@pytest.mark.parametrize("more", [{"method": "dpo"}, {"optimizer": "muon"}])
def test_what_cannot_be_shared_is_not_advised_to_be(more: dict[str, Any]) -> None:
    with pytest.raises(ResourceError) as told:
        check_fits(header(QWEN3_8B), GPUS["h100"], 8, 1, PolicyTraining(**more))
    assert "training.lora_rank=16" in told.value.fix and "workers" not in told.value.fix


def test_what_trl_holds_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, ("RTX", 4))
    check_memory(header(BILLION), load_config({"training.trainer": "trl"})[0])


def on(monkeypatch: pytest.MonkeyPatch, *gpus: tuple[str, int]) -> None:
    monkeypatch.setattr(trial, "expected_device", lambda _: "cuda")
    monkeypatch.setattr(trial, "local_gpus", lambda: [(name, gib * GIB) for name, gib in gpus])


INLINE = {"hosting.hosting": "inline"}


def test_a_run_is_refused_by_the_gpus_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = header(BILLION)
    on(monkeypatch, ("RTX", 16))
    with pytest.raises(ResourceError, match="RTX has 16"):
        check_memory(policy, load_config(INLINE)[0])
    check_memory(policy, load_config(INLINE | {"training.lora_rank": 8})[0])
    on(monkeypatch, ("H100", 78))
    check_memory(policy, load_config(INLINE)[0])


def test_actors_that_do_not_fit_beside_each_other_are_one_where_they_have_one_base(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = header(QWEN3_8B)
    adapters = {"training.lora_rank": 16}
    on(monkeypatch, ("H100", 78))
    check_memory(policy, load_config(adapters)[0])
    check_memory(policy, load_config(adapters | INLINE)[0])
    with pytest.raises(ResourceError, match=r"6 models of 15.3 GiB do not fit 1 GPUs") as told:
        check_memory(policy, load_config(adapters | {"hosting.workers": 2})[0])
    assert "fewer hosting.workers" in told.value.fix
    check_memory(policy, load_config(adapters)[0], is_alone=True)
    on(monkeypatch, *[("H100", 78)] * 2)
    check_memory(policy, load_config(adapters | {"hosting.workers": 2})[0])


def test_what_does_not_fit_to_be_served_is_refused() -> None:
    card = replace(GPUS["h100"], num_bytes=48 * GIB)
    with pytest.raises(ResourceError, match="five roles with weights of their own") as told:
        check_served(header(QWEN3_8B), card, PolicyTraining())
    assert "training.lora_rank=16" in told.value.fix
    check_served(header(QWEN3_8B), card, PolicyTraining(lora_rank=16))


def test_blocks_are_computed_again_where_a_text_does_not_fit() -> None:
    short, long = (
        training_ways(arch(QWEN3_8B), GPUS["h100"], 1, Work(tokens, 1))[-1]
        for tokens in (1_024, 32_768)
    )
    assert (short.is_checkpointed, long.is_checkpointed) == (False, True)
    assert long.step_s > 32 * short.step_s


def test_adapters_serve_five_roles_on_one_base() -> None:
    found = serving(arch(QWEN3_8B), GPUS["h100"], Work(1_024, 16))
    assert found.five_adapters_bytes < 1.1 * found.weight_bytes
    assert found.five_copies_bytes > 4 * found.weight_bytes
    assert found.kv_bytes == 36 * 8 * 128 * 2 * 2
