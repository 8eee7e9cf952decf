"""How actors and training jobs divide a cluster's GPUs so that all of them can run at once."""

import math

NUM_JOBS = 4
"""Training jobs of a round that run side by side: the policy's and one for each critic."""


def gpu_share(gpus: float, num_actors: int, device: str) -> float:
    """GPUs that each actor and each training job reserves.

    An equal part of one GPU, small enough that whole parts of it pack: 1 / k for the least k with
    k * GPUs >= actors + jobs. Nothing where there are none, or where the models run on the CPU.
    """
    if gpus < 1 or device == "cpu":
        return 0.0
    # Ray counts in ten thousandths of a GPU; rounding down keeps k parts within one.
    return math.floor(10_000 / math.ceil((num_actors + NUM_JOBS) / int(gpus))) / 10_000
