"""Actors and training jobs share the GPUs there are."""

import math

import pytest

from agent.hosting.gpu_share import NUM_JOBS, gpu_share


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("num_actors", [5, 6, 9])
def test_actors_and_training_jobs_fit_on_the_gpus_together(gpus: int, num_actors: int) -> None:
    share = gpu_share(gpus, num_actors, "auto")
    assert 0 < share <= 1
    assert gpus * math.floor(1 / share + 1e-9) >= num_actors + NUM_JOBS
    assert gpu_share(gpus, num_actors, "cpu") == gpu_share(0, num_actors, "auto") == 0
