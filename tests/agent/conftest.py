"""Small real checkpoints, and one Ray cluster for the whole session."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from agent.networks.architecture import Architecture
from agent.networks.llama import Decoder

torch.set_num_threads(1)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

CHARACTERS = ["<pad>", "</s>", "\n", *"0123456789", "+", "-", "*"]


def write_checkpoint(path: Path, seed: int = 0, scale: float = 1.0, **changes: Any) -> Path:
    """A Llama directory with random weights over the characters of `expressions`."""
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 16,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    } | changes
    (path / "config.json").write_text(json.dumps(config))
    fast = FastTokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    fast.decoder = decoders.Fuse()
    fast.add_special_tokens(["<pad>", "</s>"])
    fast.save(str(path / "tokenizer.json"))
    torch.manual_seed(seed)
    decoder = Decoder(Architecture.from_config(config))
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)
    tensors = {k: v.detach().clone() for k, v in decoder.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "policy")


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of a Ray cluster that the tests started and will stop."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")
    info = ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        namespace="ratchet",
    )
    yield str(info.address_info["gcs_address"])
    ray.shutdown()
