"""From configuration and a checkpoint's own notes to the settings of each training job."""

from typing import Any

from pydantic import ValidationError

from agent.checkpoints.header import Header
from agent.config.settings import CriticSettings, PolicyTraining
from agent.training.optimizer import TrainingSettings
from search.errors import CheckpointError
from search.randomness import derive_seed

FULL_RATE = 3e-4
LORA_RATE = 1e-3
"""Of adapters: at this rate an epoch of lessons brings a model of 135 million parameters to the
loss that training all weights at `FULL_RATE` does (LOG.md)."""
FULL_SIZE = 135_000_000


def own_lora_rank(config: PolicyTraining) -> int:
    """Of the adapters that our own loop trains; 0 where it trains all weights. TRL merges what it
    trains, so that nothing of it is left to go on from."""
    return config.lora_rank if config.trainer == "own" else 0


def check_adapters(config: PolicyTraining, checkpoint: Header) -> None:
    """Raises CheckpointError for a checkpoint of adapters that the trainer cannot go on from."""
    adapter, rank = checkpoint.adapter, own_lora_rank(config)
    if checkpoint.architecture.megalodon is not None and (rank or config.trainer == "trl"):
        raise CheckpointError(
            f"{checkpoint.path} is a Megalodon network, which takes no adapters and which TRL does "
            "not know",
            "set training.lora_rank to 0 and training.trainer to own",
        )
    if checkpoint.architecture.vision is not None and (rank or config.trainer == "trl"):
        raise CheckpointError(
            f"{checkpoint.path} reads pictures, and only our own loop trains such a network, whole",
            "set training.lora_rank to 0 and training.trainer to own",
        )
    if adapter is not None and config.trainer == "trl":
        raise CheckpointError(
            f"{checkpoint.path} holds adapters, and TRL goes on from whole weights",
            "set training.trainer to own",
        )
    if adapter is not None and rank and adapter.rank != rank:
        raise CheckpointError(
            f"the adapters in {checkpoint.path} have rank {adapter.rank}, and training.lora_rank "
            f"is {rank}",
            f"set training.lora_rank to {adapter.rank}, or to 0, which merges them and trains all "
            "weights",
        )


def policy_settings(config: PolicyTraining, checkpoint: Header) -> TrainingSettings:
    """Settings of the policy's job: what is set, else what the checkpoint's notes recommend.

    Raises CheckpointError for notes that recommend what cannot be.
    """
    values: dict[str, Any] = dict(checkpoint.notes.get("training", {}))
    values["dtype"], values["sharding"] = config.dtype, config.sharding
    values["lora_rank"] = own_lora_rank(config)
    for name in ("learning_rate", "matrix_learning_rate", "optimizer", "position_span"):
        if getattr(config, name) is not None:
            values[name] = getattr(config, name)
    values |= {
        "num_steps": config.num_steps,
        "batch_size": config.batch_size,
        "max_epochs": 1.0,
    }
    try:
        return TrainingSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"ratchet.json of {checkpoint.path} recommends training.{name} = {first['input']!r}: "
            f"{first['msg'].lower()}",
            "mend or remove the file's 'training'",
        ) from error


def pretrained_rate(checkpoint: Header, lora_rank: int = 0) -> float:
    """AdamW's rate for a pretrained model: 3e-4, with adapters 1e-3, up to 135 million parameters,
    from there falling with the root of their number, which is near where published recipes of 1
    to 8 billion are (adapters: 2e-4 at 7 and 1e-4 at 33 billion, Dettmers et al., arXiv
    2305.14314)."""
    most = LORA_RATE if lora_rank else FULL_RATE
    return float(min(most, most * (FULL_SIZE / checkpoint.num_parameters) ** 0.5))


def critic_settings(
    config: CriticSettings, base: TrainingSettings, has_head: bool
) -> TrainingSettings:
    """Critics train like the policy, for their own number of steps.

    One in the form of a language model learns at a share of the policy's rates: at the whole of
    them it forgets more of what the policy knows than the labels teach it (LOG.md).
    A head begins at zero and may have a rate of its own.
    """
    share = 1.0 if has_head else config.rate_share
    rate = share * base.learning_rate
    if has_head and config.head_rate is not None:
        rate = config.head_rate
    return base.model_copy(
        update={
            "num_steps": max(1, config.steps),
            "max_epochs": 12.0,
            "learning_rate": rate,
            "matrix_learning_rate": share * base.matrix_learning_rate,
        }
    )


def drafter_settings(
    config: PolicyTraining, base: TrainingSettings, policy: Header
) -> TrainingSettings:
    """At no less than a pretrained model's rate: it has all to learn, and no text depends on it."""
    return base.model_copy(
        update={
            "num_steps": max(1, config.drafter_steps),
            "max_epochs": 12.0,
            "learning_rate": max(base.learning_rate, pretrained_rate(policy, base.lora_rank)),
        }
    )


def replay_seed(seed: int, round_number: int) -> int:
    return derive_seed(seed, round_number, "replay")
