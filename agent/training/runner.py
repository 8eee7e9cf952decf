"""Running training jobs: as Ray tasks beside the actors, or one after the other in this process."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.checkpoints.header import read_header
from agent.checkpoints.publish import NonFiniteError
from agent.checkpoints.trained import Trained
from agent.config.settings import HostingSettings
from agent.engine.memory import is_out_of_memory
from agent.hosting.placement import job_part
from agent.hosting.ray_gpus import gpu_bytes, num_gpus
from agent.progress import Progress
from agent.scratch import scratch_folder
from agent.training.fit import DivergedError
from agent.training.job import Place, TrainingJob
from agent.training.job_memory import gpu_training_bytes, training_bytes
from agent.training.ray_runner import train_together
from search.errors import RatchetError, ResourceError

FAILED_TRAINING = (DivergedError, NonFiniteError)
MEMORY_FIX = "free memory or lower training.batch_size, then run the same command again"

Results = dict[str, Trained | RatchetError]
"""By role: what was trained or, of a job whose training failed by itself, why."""


class TrainingRunner:
    """Runs jobs, one a role, and reports the first one's progress."""

    def __init__(self, hosting: HostingSettings, folder: Path) -> None:
        """New checkpoints go below `folder`."""
        self.hosting = hosting
        self.workers = hosting.training_workers
        pictures = str(hosting.pictures_folder)
        self.place = Place(
            str(folder.resolve()), hosting.threads, hosting.device, pictures=pictures
        )

    @property
    def folder(self) -> Path:
        """Where new checkpoints go."""
        return Path(self.place.folder)

    def run(self, jobs: Sequence[TrainingJob], progress: Progress) -> Results:
        """All results. Any error but that of a training that failed is raised as it was there."""
        with scratch_folder("jobs") as scratch:
            placed = [
                (
                    job,
                    replace(
                        self.place,
                        progress_file=str(scratch / f"{job.role}.json"),
                        job_id=f"{os.getpid()}-{job.role}",
                    ),
                )
                for job in jobs
            ]
            if self.hosting.hosting != "ray":
                return {job.role: _run_here(job, place) for job, place in placed}
            shared = [(j, p) for j, p in placed if self.workers > 1 and j.can_be_shared]
            alone = [pair for pair in placed if pair not in shared]
            results: Results = {job.role: self._together(job, place) for job, place in shared}
            return results | self._run_on_ray(alone, progress)

    def _run_on_ray(
        self, placed: Sequence[tuple[TrainingJob, Place]], progress: Progress
    ) -> Results:
        import ray

        if not placed:
            return {}
        gpus = num_gpus(self.place.device)
        largest = max(_gpu_bytes_of(job) for job, _ in placed)
        threads = str(self.place.threads)
        options: dict[str, Any] = {
            "num_cpus": 1,
            "num_gpus": job_part(len(placed), largest, gpus, gpu_bytes() if gpus else 0),
            "max_retries": 3,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        }
        part = options["num_gpus"] or 1.0
        placed = [(job, replace(place, gpu_part=part)) for job, place in placed]
        remote = ray.remote(_run)
        # What a job on a GPU holds is in the GPU's memory, which `num_gpus` shares out.
        on_nodes = [node["Resources"].get("memory", 0.0) for node in ray.nodes()]
        most = 0.0 if options["num_gpus"] else max(on_nodes)
        pending = {
            job.role: remote.options(**options, memory=min(_bytes_of(job), most) or None).remote(
                job, place
            )
            for job, place in placed
        }
        left = list(pending.values())
        while left:
            _, left = ray.wait(left, num_returns=len(left), timeout=0.5)
            _show(placed[0][1], progress)
        return {role: _fetched(one) for role, one in pending.items()}

    def _together(self, job: TrainingJob, place: Place) -> Trained | RatchetError:
        try:
            return train_together(job, place, self.workers)
        except FAILED_TRAINING as error:
            return error


def _bytes_of(job: TrainingJob) -> int:
    """Memory that a job asks for: those that do not fit beside others wait for them."""
    tuned = getattr(job, "tuned_layers", 0)
    return training_bytes(read_header(job.parent), tuned, job.settings.lora_rank)


def _gpu_bytes_of(job: TrainingJob) -> int:
    tuned = getattr(job, "tuned_layers", 0)
    header = read_header(job.parent)
    return gpu_training_bytes(header, tuned, job.settings.lora_rank, job.beside_bytes)


def run_job(job: TrainingJob, place: Place, progress: Progress) -> Trained:
    """One job in this process, its progress told step by step."""
    with scratch_folder("jobs") as scratch:
        own = replace(place, progress_file=str(scratch / "job.json"))
        progress.stage("training", job.settings.num_steps, "steps")
        with _shown(own, progress):
            return job.run(own)


@contextlib.contextmanager
def _shown(place: Place, progress: Progress) -> Iterator[None]:
    """What the job writes to its progress file, told once a second for as long as the block."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            _show(place, progress)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        _show(place, progress)


def _run(job: TrainingJob, place: Place) -> Trained:
    return job.run(place)


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


def _run_here(job: TrainingJob, place: Place) -> Trained | RatchetError:
    try:
        return job.run(place)
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
