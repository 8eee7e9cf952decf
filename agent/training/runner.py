"""Running training jobs: as Ray tasks beside the actors, or one after the other in this process."""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.checkpoints.publish import NonFiniteError
from agent.engine.memory import is_out_of_memory
from agent.hosting.gpu_share import gpu_share
from agent.hosting.model_host import ROLES
from agent.progress import Progress
from agent.training.fit import DivergedError
from agent.training.jobs import Place, Trained, policy_job
from agent.training.ray_runner import train_policy_together
from search.errors import RatchetError, ResourceError

FAILED_TRAINING = (DivergedError, NonFiniteError)
MEMORY_FIX = "free memory or lower training.batch_size, then run the same command again"

Job = tuple[Callable[..., Trained], tuple[Any, ...]]
"""A job and its arguments, all but the last one, which is its Place."""


class Workshop:
    """Runs jobs and reports the first one's progress."""

    def __init__(
        self,
        hosting: str,
        folder: Path,
        threads: int,
        device: str,
        workers: int = 1,
        num_actors: int = len(ROLES),
    ) -> None:
        """`workers` processes train a policy together (hosting ray, our own trainer, SFT), beside
        so many actors that stay."""
        self.hosting = hosting
        self.workers = workers
        self.num_actors = num_actors
        self.place = Place(str(folder.resolve()), threads, device)

    def run(self, jobs: Sequence[Job], progress: Progress) -> list[Trained | RatchetError]:
        """All results, in order; of a job whose training failed by itself, why. Any other error is
        raised as it was there."""
        with tempfile.TemporaryDirectory(prefix="ratchet-jobs-") as scratch:
            places = [
                replace(
                    self.place,
                    progress_file=os.path.join(scratch, f"{i}.json"),
                    job_id=f"{os.getpid()}-{i}",
                )
                for i in range(len(jobs))
            ]
            if self.hosting == "ray":
                together = [
                    i for i, (job, _) in enumerate(jobs) if self.workers > 1 and job is policy_job
                ]
                done: dict[int, Trained | RatchetError] = {
                    i: self._together(jobs[i][1], places[i]) for i in together
                }
                rest = [i for i in range(len(jobs)) if i not in done]
                done |= zip(
                    rest,
                    self._run_on_ray([jobs[i] for i in rest], [places[i] for i in rest], progress),
                    strict=True,
                )
                return [done[i] for i in range(len(jobs))]
            return [_run_here(job, place) for job, place in zip(jobs, places, strict=True)]

    def _run_on_ray(
        self, jobs: Sequence[Job], places: Sequence[Place], progress: Progress
    ) -> list[Trained | RatchetError]:
        import ray

        if not jobs:
            return []
        gpus = float(ray.cluster_resources().get("GPU", 0))
        threads = str(places[0].threads)
        pending = []
        for (job, arguments), place in zip(jobs, places, strict=True):
            remote = ray.remote(job).options(
                num_cpus=1,
                num_gpus=gpu_share(gpus, self.num_actors, self.place.device),
                max_retries=3,
                runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
            )
            pending.append(remote.remote(*arguments, place))
        left = list(pending)
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=0.5)
            _show(places[0], progress)
        return [_fetched(one) for one in pending]

    def _together(self, arguments: tuple[Any, ...], place: Place) -> Trained | RatchetError:
        try:
            return train_policy_together(arguments, place, self.workers)
        except FAILED_TRAINING as error:
            return error


def _fetched(pending: Any) -> Trained | RatchetError:
    """The result of one Ray task."""
    import ray

    try:
        result: Trained = ray.get(pending)
        return result
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        if isinstance(cause, FAILED_TRAINING):
            return cause
        raise (_without_memory(cause) or cause) from error
    except (ray.exceptions.OutOfMemoryError, ray.exceptions.WorkerCrashedError) as error:
        raise ResourceError(
            f"a training job was killed: {str(error).splitlines()[0]}", MEMORY_FIX
        ) from error


def _run_here(job: Job, place: Place) -> Trained | RatchetError:
    function, arguments = job
    try:
        return function(*arguments, place)
    except FAILED_TRAINING as error:
        return error
    except Exception as error:
        if (told := _without_memory(error)) is not None:
            raise told from error
        raise


def _without_memory(error: Exception) -> ResourceError | None:
    """What to tell of a job that ran out of memory; None for any other error."""
    if not is_out_of_memory(error):
        return None
    return ResourceError(f"a training job ran out of memory: {error}", MEMORY_FIX)


def _show(place: Place, progress: Progress) -> None:
    try:
        seen = json.loads(Path(place.progress_file).read_text())
    except (OSError, ValueError):
        return
    progress.update(seen["done"], loss=seen["loss"])
