"""Defaults that follow the model, and the trial that hours are estimated from."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import trial
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.config.load import load_config
from agent.config.settings import Config
from agent.defaults import fitted
from agent.engine.requests import OptionRequest
from agent.networks.architecture import Architecture
from agent.networks.device import LARGE
from agent.tasks.jsonl import Files, Jsonl
from agent.training.job_memory import training_bytes
from agent.trial import check_memory, check_serving, measured
from search.errors import ResourceError
from tests.agent.chat import write_chat_model
from tests.agent.test_teach import files

SMOLLM2 = Architecture.from_config(
    {
        "model_type": "llama",
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    }
)


@dataclass
class Policy:
    """A header as far as defaults look at it."""

    num_parameters: int
    notes: dict[str, Any] = field(default_factory=dict)
    architecture: Architecture = SMOLLM2


def fit(policy: Policy, folder: Path, device: str = "cpu", **flags: Any) -> tuple[Config, set[str]]:
    problems, _ = files(folder)
    config = load_config(flags)[0]
    found, told = fitted(config, policy, Jsonl(Files(str(problems))), 216, device)  # type: ignore[arg-type]
    assert all(default.reason for default in told)
    return found, {default.key for default in told}


def test_a_large_policy_gets_settings_of_its_own_where_nobody_set_any(tmp_path: Path) -> None:
    config, keys = fit(Policy(135_000_000), tmp_path)
    assert config.problems_per_round == 150 and config.tokens_per_problem == 600
    assert config.training.learning_rate == 3e-5 and config.training.num_steps == 60
    assert config.critics.num_labelled < 50  # as many as the file has
    assert config.critics.tuned_layers == 6 and config.critics.head_rate == 9e-4
    # 2 GiB of keys and values of 23,040 bytes a token, prompts and texts of 216 tokens each.
    assert config.hosting.batch_rows == 128
    assert {"problems_per_round", "training.learning_rate", "hosting.cohort"} <= keys
    mine, keys = fit(Policy(135_000_000), tmp_path, **{"training.num_steps": 600, "seed": 3})
    assert mine.training.num_steps == 600 and "training.num_steps" not in keys
    assert mine.seed == 3 and mine.problems_per_round == 150


def test_the_same_settings_come_out_each_time_and_of_what_came_out(tmp_path: Path) -> None:
    once, _ = fit(Policy(135_000_000), tmp_path)
    again, _ = fit(Policy(135_000_000), tmp_path)
    assert once.digest() == again.digest()
    problems, _ = files(tmp_path)
    task = Jsonl(Files(str(problems)))
    kept, told = fitted(once, Policy(135_000_000), task, 216, "cpu")  # type: ignore[arg-type]
    assert kept == once and told == []


@pytest.mark.parametrize(
    "policy",
    [
        Policy(LARGE - 1),
        Policy(135_000_000, {"training": {"learning_rate": 1e-3}}),
        Policy(135_000_000, {"task": "jsonl"}),
    ],
)
def test_small_policies_and_those_with_a_recipe_keep_the_defaults(
    policy: Policy, tmp_path: Path
) -> None:
    config, keys = fit(policy, tmp_path)
    assert keys == set() and config == load_config({})[0]


def test_a_larger_model_learns_slower_and_a_gpu_does_more(tmp_path: Path) -> None:
    small, _ = fit(Policy(135_000_000), tmp_path)
    large, _ = fit(Policy(8_000_000_000), tmp_path, "cuda")
    assert (large.training.learning_rate or 1) < 0.2 * (small.training.learning_rate or 0)
    assert large.problems_per_round == 5 * small.problems_per_round
    assert large.hosting.cohort == 4 * small.hosting.cohort
    assert (small.hosting.kv_mib, large.hosting.kv_mib) == (256, 1024)


def test_a_trial_writes_reads_and_learns(tmp_path: Path) -> None:
    policy = verify_checkpoint(write_chat_model(tmp_path / "model"))
    config = load_config({})[0]
    asked = [OptionRequest((5, 6, 7 + i), 2, 8) for i in range(4)]
    rates = measured(policy, config, asked, lambda step: None)
    assert min(rates.decoded, rates.proposed, rates.read, rates.trained) > 10
    assert rates.serving_bytes == 4 * policy.num_parameters


def test_a_critic_that_trains_its_last_blocks_takes_less_than_half() -> None:
    policy = Policy(134_515_008)
    whole, tuned = (training_bytes(policy, n) for n in (0, 6))  # type: ignore[arg-type]
    assert 4.6e9 < whole < 4.9e9  # 4.43 GiB were measured (docs/results/memory-2026-11-28.json)
    assert tuned < 0.5 * whole
    assert training_bytes(policy, 500) == whole  # type: ignore[arg-type]
    assert training_bytes(Policy(LARGE - 1)) == 0  # type: ignore[arg-type]


def test_a_policy_that_cannot_be_trained_here_is_refused_with_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = verify_checkpoint(write_chat_model(tmp_path / "model"))
    config = load_config({})[0]
    memory = SimpleNamespace(available=1000)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    check_memory(policy, config)  # small ones always fit
    monkeypatch.setattr(trial, "LARGE", 1)
    with pytest.raises(ResourceError, match="GiB are free"):
        check_memory(policy, config)
    memory.available = 10 * policy.num_parameters  # enough to serve them, not to train them
    with pytest.raises(ResourceError, match="to train them takes"):
        check_memory(policy, config)
    check_memory(policy, load_config({"training.trainer": "trl", "training.lora_rank": 4})[0])
    memory.available = 7 * policy.num_parameters
    with pytest.raises(ResourceError, match="to load them in float32 takes") as error:
        check_serving(policy, load_config({"hosting.dtype": "float32"})[0])
    assert "hosting.dtype=bfloat16" in error.value.fix
    check_serving(policy, load_config({"hosting.dtype": "bfloat16"})[0])
