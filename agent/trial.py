"""A short trial of a model on this machine: what a round's hours are estimated from."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.header import Header
from agent.checkpoints.weights import load_model
from agent.config.settings import Config, PolicyTraining
from agent.engine.requests import CompletionRequest, OptionRequest, Options, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.gpu_plan import GPUS, Work, check_fits, check_served, serving
from agent.hosting.placement import Needs, actor_places, hosted_roles
from agent.networks.device import (
    LARGE,
    chosen_device,
    chosen_dtype,
    expected_device,
    local_gpus,
)
from agent.option_trial import Tried, tried_options
from agent.pictures.preprocessing import give_pictures
from agent.training.examples import Example
from agent.training.job import adapted_model
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import BYTES_TRAINED, MICRO_TOKENS, TrainingSettings
from agent.training.recipe import own_lora_rank
from search.errors import ResourceError
from search.merge import ClaimOf

TEXTS, PROMPT, NEW = 32, 64, 6
PROPOSED = 2
"""Options of each problem."""
SCORED, TRAINED = 8, 16
"""Rows that are scored, and learned from."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second of one process, and bytes."""

    decoded: float
    """Generated, `TEXTS` texts at once."""
    proposed: float
    """Fed to find different options of `TEXTS` problems."""
    read: float
    """Scored, or read for the first time."""
    trained: float
    """Forward and backward."""
    serving_bytes: int
    """Of one role's weights, as they are held."""
    proposals: tuple[Tried, ...] = ()
    """Ways to propose options, the one with most probability a token first."""


def measured(
    policy: Checkpoint, config: Config, asked: Sequence[OptionRequest], claim_of: ClaimOf
) -> Rates:
    """Propose what is `asked`, and write, read and learn a few random tokens; about a minute for
    135 million parameters."""
    device = chosen_device(config.hosting.device)
    dtype = chosen_dtype(config.hosting.dtype, device, policy.num_parameters)
    torch.set_num_threads(config.hosting.threads)
    arch = policy.architecture
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(4, arch.vocab_size, (TEXTS, PROMPT), generator=generator).tolist()
    rows = [tuple(row) for row in drawn]
    tokenizer = Tokenizer(policy.path)
    model = load_model(policy, dtype, device)
    give_pictures(model, policy, str(config.hosting.pictures_folder))
    engine = TorchEngine(model, tokenizer.steps, tokenizer.end_ids)
    decoded, read = _engine_rates(engine, rows)
    proposed = _proposing_rate(engine, asked) if asked else decoded
    tried = tried_options(engine, asked, claim_of, tokenizer.decode_after) if asked else []
    trained = _training_rate(policy, rows, config.training, device)
    return Rates(
        decoded=decoded,
        proposed=proposed,
        read=read,
        trained=trained,
        serving_bytes=policy.num_parameters * dtype.itemsize,
        proposals=tuple(tried),
    )


def _engine_rates(engine: TorchEngine, rows: Sequence[tuple[int, ...]]) -> tuple[float, float]:
    """(written, read) tokens a second."""
    asked = [CompletionRequest(row, 1 + NEW, 1.0, i) for i, row in enumerate(rows)]
    read = _seconds(lambda: engine.completions([replace(a, max_tokens=1) for a in asked]))
    both = _seconds(lambda: engine.completions(asked))  # what was read is kept
    scored = [ScoreRequest(row, 1) for row in rows[:SCORED]]
    read += _seconds(lambda: engine.score(scored))
    return len(rows) * NEW / both, (len(rows) + len(scored)) * PROMPT / read


def _proposing_rate(engine: TorchEngine, asked: Sequence[OptionRequest]) -> float:
    """Tokens a second, those of options that were not settled among them."""
    found: list[Options] = []
    spent_s = _seconds(lambda: found.extend(engine.options(asked)))
    return sum(options.num_tokens for options in found) / spent_s


def _training_rate(
    policy: Checkpoint, rows: Sequence[tuple[int, ...]], training: PolicyTraining, device: str
) -> float:
    """Tokens a second, padding not counted."""
    texts = [Example(row, PROMPT // 2) for row in rows[:TRAINED]]
    settings = TrainingSettings(
        num_steps=1,
        batch_size=len(texts),
        learning_rate=1e-9,
        dtype=training.dtype,
        lora_rank=own_lora_rank(training),
    )
    model = adapted_model(policy, settings, 0, device)
    return len(texts) * PROMPT / _seconds(lambda: train_on_texts(model, texts, settings, 0))


def check_memory(policy: Header, config: Config, is_alone: bool = False) -> None:
    """Raises ResourceError where training a large policy does not fit the memory of this machine or
    of its GPUs, before anything is loaded. `is_alone`: one job, and no actors beside it."""
    check_serving(policy, config)
    if expected_device(config.hosting.device) != "cpu" and not _is_on_cluster(config):
        _check_gpus(policy, config, is_alone)
    elif not config.training.lora_rank:
        _check_fits(
            policy,
            config,
            policy.num_parameters * BYTES_TRAINED,
            "to train them takes {} for weights, gradients and moments",
            "use a machine with more memory, a smaller model, or adapters: --set "
            "training.lora_rank=16",
        )


def check_serving(policy: Header, config: Config) -> None:
    """Raises ResourceError where the weights of a large policy do not fit the memory of this
    machine: twice, for while they are laid out they are there in two forms."""
    dtype = chosen_dtype(config.hosting.dtype, "cpu", policy.num_parameters)
    name = str(dtype).removeprefix("torch.")
    fix = "use a machine with more memory, or a smaller model"
    if dtype == torch.float32:
        fix += ", or half the bytes: --set hosting.dtype=bfloat16"
    needed = 2 * policy.num_parameters * dtype.itemsize
    _check_fits(policy, config, needed, f"to load them in {name} takes {{}}", fix)


def _check_gpus(policy: Header, config: Config, is_alone: bool) -> None:
    gpus = local_gpus()
    if not gpus or policy.num_parameters < LARGE or config.training.trainer == "trl":
        return  # what TRL holds is TRL's to say
    name, num_bytes = min(gpus, key=lambda gpu: gpu[1])
    gpu = replace(GPUS["h100"], name=name, num_bytes=num_bytes)
    # Actors give their GPUs back before a training, and jobs that do not fit together wait.
    check_fits(policy, gpu, len(gpus), config.hosting.training_workers, config.training)
    if is_alone:
        return
    if config.hosting.hosting == "ray":
        needs = needs_of([policy], config)
        actor_places(hosted_roles(config.hosting.workers), len(gpus), num_bytes, needs)
    else:
        check_served(policy, gpu, config.training)


def needs_of(models: Sequence[Header], config: Config, trains: bool = True) -> Needs:
    """What these models, the policy first, take of a GPU, and those that a run `trains` of them."""
    policy = models[0]
    if policy.num_parameters < LARGE:
        return Needs()
    found = serving(policy.architecture, GPUS["h100"], Work(MICRO_TOKENS, 1))
    itemsize = chosen_dtype(config.hosting.dtype, "cuda", policy.num_parameters).itemsize
    bases = {(model.base or model).path for model in models}
    is_adapted = bool(own_lora_rank(config.training)) if trains else len(models) > 1
    return Needs(found.weight_bytes * itemsize // 2, is_adapted and len(bases) == 1)


def _is_on_cluster(config: Config) -> bool:
    return bool(config.hosting.ray_address or os.environ.get("RAY_ADDRESS"))


def _check_fits(policy: Header, config: Config, needed: int, what: str, fix: str) -> None:
    is_on_gpu = expected_device(config.hosting.device) != "cpu"
    if _is_on_cluster(config) or is_on_gpu or policy.num_parameters < LARGE:
        return
    free = psutil.virtual_memory().available
    if needed > free:
        raise ResourceError(
            f"{policy.path} has {policy.num_parameters:,} parameters; "
            f"{what.format(f'{needed / 2**30:,.1f} GiB')}, and {free / 2**30:,.1f} GiB are free",
            fix,
        )


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return max(1e-6, time.perf_counter() - start)
