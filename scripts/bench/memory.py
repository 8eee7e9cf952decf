"""What plans say of memory against what processes took: training and serving of three sizes.

    python -m scripts.bench.memory                      # all arms, some ten minutes on one core
    python -m scripts.bench.memory --size 30M --arm train-adapters
    python -m scripts.bench.memory --json memory.json

Checkpoints with random weights in bfloat16, in the shapes of SmolLM2 (30M is one of our own). Each
arm runs in a process of its own, whose largest resident set the system tells (ru_maxrss).
`train-all` and `train-adapters` take three steps of 32 texts of 256 tokens. `serve-one` holds a
policy, `serve-five` the five roles as adapters on its weights, `serve-five-whole` five models of
which each has weights of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.header import read_header
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import CriticHost, GeneratorHost, Host, HostSettings
from agent.networks.architecture import Architecture
from agent.networks.device import chosen_dtype
from agent.networks.shapes import parameter_shapes
from agent.training.examples import Example
from agent.training.initial import initial_models
from agent.training.job import Place
from agent.training.job_memory import serving_bytes, training_bytes
from agent.training.methods.sft import SftJob
from agent.training.optimizer import TrainingSettings
from scripts.bench.report import Row, write
from scripts.embedded_policy import bytes_tokenizer

RANK = 16
VOCABULARY = 49_152
ROWS, TOKENS, STEPS = 32, 256, 3
ROLES = ("drafter", "value", "process", "outcome")


@dataclass(frozen=True)
class Size:
    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int


SIZES = {
    size.name: size
    for size in (
        Size("30M", 12, 384, 1_024, 6, 2),
        Size("135M", 30, 576, 1_536, 9, 3),
        Size("360M", 32, 960, 2_560, 15, 5),
    )
}


def made(size: Size, folder: Path, seed: int = 0) -> Checkpoint:
    """A transformers directory with random weights."""
    path = folder / f"{size.name}-{seed}"
    path.mkdir(parents=True)
    fast = bytes_tokenizer(["one and one makes two"], 300)
    missing = VOCABULARY - fast.get_vocab_size() - 1
    fast.add_special_tokens([*(f"<unused {i}>" for i in range(missing)), "</s>"])
    fast.save(str(path / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": size.hidden,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "max_position_embeddings": 2_048,
        "tie_word_embeddings": True,
        "eos_token_id": fast.token_to_id("</s>"),
        "dtype": "bfloat16",
    }
    (path / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in parameter_shapes(Architecture.from_config(config), False).items():
        drawn = 0.02 * torch.randn(shape, generator=generator)
        weights[name] = (drawn + (len(shape) == 1)).to(torch.bfloat16)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return verify_checkpoint(path)


def train(folder: Path, size: Size, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(4, 49_000, (2 * ROWS, TOKENS), generator=generator).tolist()
    rows = [Example(tuple(row), TOKENS // 2) for row in drawn]
    job = SftJob(
        role="policy",
        parent=str(folder / f"{size.name}-0"),
        settings=TrainingSettings(
            num_steps=STEPS, batch_size=ROWS, learning_rate=1e-5, max_epochs=100, lora_rank=rank
        ),
        seed=0,
        examples=rows,
        dev=rows[:8],
    )
    job.run(Place(str(folder / "trained")))


def serve_one(folder: Path, size: Size) -> None:
    policy = verify_checkpoint(folder / f"{size.name}-0").ref("policy")
    hosts = InlineHosts(HostSettings())
    hosts.load(policy)


def serve_five(folder: Path, size: Size) -> None:
    hosts = InlineHosts(HostSettings())
    hosts.load(verify_checkpoint(folder / f"{size.name}-0").ref("policy"))
    for role in ROLES:
        (path,) = (folder / f"roles-{size.name}").glob(f"{role}-*")
        hosts.load(verify_checkpoint(path).ref(role))


def serve_five_whole(folder: Path, size: Size) -> None:
    hosts: list[Host] = []
    for seed in range(5):
        kind = GeneratorHost if seed < 2 else CriticHost
        host = kind("policy", HostSettings())
        host.load(verify_checkpoint(folder / f"{size.name}-{seed}").ref("policy"))
        hosts.append(host)


def held(path: Path) -> int:
    """Bytes of a number of a policy that is served on a CPU."""
    return chosen_dtype("auto", "cpu", read_header(path).num_parameters).itemsize


@dataclass(frozen=True)
class Arm:
    run: Callable[[Path, Size], None]
    planned: Callable[[Path], int]


ARMS = {
    "train-all": Arm(lambda f, s: train(f, s, 0), lambda p: training_bytes(read_header(p))),
    "train-adapters": Arm(
        lambda f, s: train(f, s, RANK),
        lambda p: training_bytes(read_header(p), lora_rank=RANK),
    ),
    "serve-one": Arm(serve_one, lambda p: serving_bytes(read_header(p), held(p), 1)),
    "serve-five": Arm(serve_five, lambda p: serving_bytes(read_header(p), held(p), 5, RANK)),
    "serve-five-whole": Arm(serve_five_whole, lambda p: serving_bytes(read_header(p), held(p), 5)),
}


def measured(folder: Path, size: Size, name: str) -> int:
    """Bytes of the largest resident set of an arm in a process of its own."""
    inside = ["--inside", str(folder), "--size", size.name, "--arm", name]
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.bench.memory", *inside],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"{name} of {size.name} failed:\n{ran.stderr[-2000:]}")
    return int(ran.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES], nargs="+", default=[*SIZES])
    parser.add_argument("--arm", choices=[*ARMS], nargs="+", default=[*ARMS])
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        torch.set_num_threads(1)
        ARMS[given.arm[0]].run(given.inside, SIZES[given.size[0]])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    rows: list[Row] = []
    print(f"{'size':>6} {'arm':<18} {'planned':>9} {'measured':>9}  planned / measured")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in given.size:
            size = SIZES[name]
            for seed in range(5 if "serve-five-whole" in given.arm else 1):
                made(size, folder, seed)
            if "serve-five" in given.arm:
                policy = verify_checkpoint(folder / f"{name}-0").ref("policy")
                initial_models(policy, Place(str(folder / f"roles-{name}")), lora_rank=RANK)
            for arm in given.arm:
                planned = ARMS[arm].planned(folder / f"{name}-0")
                found = measured(folder, size, arm)
                print(
                    f"{name:>6} {arm:<18} {planned / 2**30:6.2f}GiB {found / 2**30:6.2f}GiB"
                    f"  {planned / found:.2f}",
                    flush=True,
                )
                rows.append(
                    {
                        "name": f"{arm} of {name}",
                        "value": found,
                        "unit": "bytes",
                        "n": 1,
                        "planned": planned,
                        "baseline": "the plan",
                    }
                )
    write(given.json, "memory", {"rank": RANK, "rows": ROWS, "tokens": TOKENS}, [0], rows)


if __name__ == "__main__":
    main()
