"""Which texts a policy trains on, in what mixture, and which are set aside to stop early by."""

import hashlib
import random
from collections.abc import Sequence

import numpy as np

from agent.config.settings import PolicyTraining
from agent.training.examples import Example

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


def rows_to_train(config: PolicyTraining, num_texts: int, has_replay: bool) -> tuple[int, int]:
    """(steps, rows): as many steps as set, but no text more often than `max_epochs` times."""
    most = config.max_epochs * num_texts / (1 - config.replay_share * has_replay)
    num_steps = max(1, min(config.num_steps, int(most // config.batch_size)))
    return num_steps, num_steps * config.batch_size


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
