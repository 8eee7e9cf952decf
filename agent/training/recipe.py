"""From configuration and a checkpoint's own notes to the settings of each training job."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import ValidationError

from agent.checkpoints.checkpoint import Checkpoint
from agent.config.settings import CriticSettings, PolicyTraining
from agent.engine.tokenizer import Tokenizer
from agent.training.examples import Example
from agent.training.optimizer import TrainingSettings
from agent.training.policy_gradient import GradientSettings
from agent.training.preference import PairExample, PreferenceSettings, ReferenceUpdate
from agent.training.trl_jobs import AdapterSettings
from search.errors import CheckpointError
from search.randomness import derive_seed
from store.datasets import StoredText
from store.pairs import StoredPair


def policy_settings(config: PolicyTraining, checkpoint: Checkpoint) -> TrainingSettings:
    """Settings of the policy's job: what is set, else what the checkpoint's notes recommend.

    Raises CheckpointError for notes that recommend what cannot be.
    """
    values: dict[str, Any] = dict(checkpoint.notes.get("training", {}))
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


def critic_settings(
    config: CriticSettings, base: TrainingSettings, has_head: bool
) -> TrainingSettings:
    """Critics train like the policy, for their own number of steps.

    One in the form of a language model learns at a share of the policy's rates: at the whole of
    them it forgets more of what the policy knows than the labels teach it (LOG.md).
    """
    share = 1.0 if has_head else config.rate_share
    return base.model_copy(
        update={
            "num_steps": max(1, config.steps),
            "max_epochs": 12.0,
            "learning_rate": share * base.learning_rate,
            "matrix_learning_rate": share * base.matrix_learning_rate,
        }
    )


def drafter_settings(config: PolicyTraining, base: TrainingSettings) -> TrainingSettings:
    return base.model_copy(update={"num_steps": max(1, config.drafter_steps), "max_epochs": 12.0})


def mixed_examples(
    texts: Sequence[Example], replayed: Sequence[Example], share: float, num_rows: int, seed: int
) -> list[Example]:
    """`num_rows` training rows: all texts in turn, and among them `share` of demonstrations.

    The texts come round again as often as it takes, in an order of `seed`: where there is no room
    for all, no round and no kind of them is left out. The demonstrations are as many different ones
    as there are.
    """
    num_replayed = round(share * num_rows) if replayed else 0
    order = random.Random(seed).sample(texts, len(texts))
    rows = [order[i % len(order)] for i in range(num_rows - num_replayed)]
    return rows + [replayed[i % len(replayed)] for i in range(num_replayed)]


def as_examples(texts: Sequence[StoredText]) -> list[Example]:
    return [Example(t.prompt_tokens + t.tokens, len(t.prompt_tokens)) for t in texts]


def rows_to_train(config: PolicyTraining, num_texts: int, has_replay: bool) -> tuple[int, int]:
    """(steps, rows): as many steps as set, but no text more often than `max_epochs` times."""
    most = config.max_epochs * num_texts / (1 - config.replay_share * has_replay)
    num_steps = max(1, min(config.num_steps, int(most // config.batch_size)))
    return num_steps, num_steps * config.batch_size


def pair_examples(pairs: Iterable[StoredPair], tokenizer: Tokenizer) -> list[PairExample]:
    """Stored sibling pairs, as far as the worse step's tokens can be told.

    The store keeps a step's text and how many tokens it had; where encoding the text gives another
    number, its tokens are not known, and the pair is left out.
    """
    found = []
    for pair in pairs:
        rejected = tuple(tokenizer.encode(pair.rejected_text, is_start=False))
        if pair.rejected_stop == "end":
            rejected = (*rejected, tokenizer.end_ids[0])
        if len(rejected) == pair.rejected_tokens:
            given = pair.prompt_tokens + pair.before
            found.append(PairExample(given, pair.chosen, rejected))
    return found


DEV_SHARE = 20
MOST_DEV = 128


def with_dev(texts: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """(to train on, to stop early by): the texts of one problem in twenty are set aside, while
    there are enough.

    The problem's digest decides, so that its texts are on one side, and on the same one in every
    round: the dev set would say nothing otherwise.
    """
    unique = list(dict.fromkeys(texts))
    if len(unique) < 10 * DEV_SHARE:
        return list(texts), []
    dev = [t for t in unique if _is_aside(t)][:MOST_DEV]
    return [t for t in texts if not _is_aside(t)], dev


def _is_aside(text: Example) -> bool:
    prompt = np.asarray(text.tokens[: text.num_prompt], "<u4").tobytes()
    return int.from_bytes(hashlib.sha256(prompt).digest()[:4], "big") % DEV_SHARE == 0


def preference_settings(config: PolicyTraining) -> PreferenceSettings:
    update: ReferenceUpdate = config.reference_update if config.method == "tr-dpo" else "none"
    return PreferenceSettings(
        config.beta, config.sft_weight, update, config.reference_alpha, config.reference_steps
    )


def adapter_settings(config: PolicyTraining) -> AdapterSettings:
    return AdapterSettings(config.lora_rank, config.quantization)


def gradient_settings(config: PolicyTraining) -> GradientSettings:
    return GradientSettings(
        num_states=max(1, config.batch_size // config.texts_per_state),
        num_texts=config.texts_per_state,
        kl_weight=config.kl_weight,
    )


def replay_seed(seed: int, round_number: int) -> int:
    return derive_seed(seed, round_number, "replay")
