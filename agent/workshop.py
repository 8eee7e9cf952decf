"""Running training jobs: as Ray tasks beside the actors, or one after the other in this process."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.progress import Progress
from agent.training.jobs import Place, Trained
from search.errors import ResourceError

Job = tuple[Callable[..., Trained], tuple[Any, ...]]
"""A job and its arguments, all but the last one, which is its Place."""


class Workshop:
    """Runs jobs and reports the first one's progress."""

    def __init__(self, hosting: str, folder: Path, threads: int, device: str) -> None:
        self.hosting = hosting
        self.place = Place(str(folder.resolve()), threads, device)

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Trained]:
        """All results, in order. An error of a job is raised as it was there."""
        with tempfile.TemporaryDirectory(prefix="ratchet-jobs-") as scratch:
            places = [
                replace(self.place, progress_file=os.path.join(scratch, f"{i}.json"))
                for i in range(len(jobs))
            ]
            if self.hosting == "ray":
                return _run_on_ray(jobs, places, progress)
            return [
                job(*arguments, place) for (job, arguments), place in zip(jobs, places, strict=True)
            ]


def _run_on_ray(jobs: Sequence[Job], places: Sequence[Place], progress: Progress) -> list[Trained]:
    import ray

    gpus = float(ray.cluster_resources().get("GPU", 0))
    threads = str(places[0].threads)
    pending = []
    for (job, arguments), place in zip(jobs, places, strict=True):
        remote = ray.remote(job).options(
            num_cpus=1,
            num_gpus=min(0.5, gpus / 10) if gpus else 0,
            max_retries=3,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        )
        pending.append(remote.remote(*arguments, place))
    left = list(pending)
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=0.5)
        _show(places[0], progress)
    try:
        results: list[Trained] = ray.get(pending)
        return results
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise cause from error
    except (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError) as error:
        raise ResourceError(
            f"a training job was killed: {str(error).splitlines()[0]}",
            "free memory or lower training.batch_size, then run the same command again",
        ) from error


def _show(place: Place, progress: Progress) -> None:
    try:
        seen = json.loads(Path(place.progress_file).read_text())
    except (OSError, ValueError):
        return
    progress.update(seen["done"], loss=seen["loss"])
