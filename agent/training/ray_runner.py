"""One training job in several processes, under Ray Train (torch.distributed; gloo on CPUs)."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agent.checkpoints.publish import NonFiniteError
from agent.checkpoints.trained import Trained
from agent.hosting.ray_gpus import wait_for_gpus
from agent.training.fit import DivergedError
from agent.training.job import Place, TrainingJob
from agent.training.ranks import rank
from search.errors import RatchetError, ResourceError

ERRORS: dict[str, type[RatchetError]] = {
    kind.__name__: kind for kind in (DivergedError, NonFiniteError, ResourceError)
}
"""What a rank tells of, by name."""


def on_gpus(device: str, workers: int) -> bool:
    """Whether workers train on GPUs of the cluster; `auto` takes them where each gets a whole one,
    and CPUs elsewhere."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    return device.startswith("cuda") or (device == "auto" and gpus >= workers)


def train_together(job: TrainingJob, place: Place, workers: int) -> Trained:
    """The job's result; every worker reads the same rows and takes its share of each batch.

    Raises ResourceError when the cluster cannot hold the workers or one of them died for good, and
    what the job itself raises.
    """
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    uses_gpu = on_gpus(place.device, workers)
    if not uses_gpu:
        place = replace(place, device="cpu")
    _check_room(workers, uses_gpu)
    result_file = Path(place.folder) / f".trained-{place.job_id}.json"
    storage = Path(place.folder).resolve() / f".ray-train-{place.job_id}"
    storage.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "place": place, "result": str(result_file)},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=uses_gpu,
            resources_per_worker={"CPU": 1},
        ),
        run_config=RunConfig(
            name=f"ratchet-{place.job_id}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=1, controller_failure_limit=5),
        ),
    )
    try:
        trainer.fit()
        result = json.loads(result_file.read_text())
    except (TrainingFailedError, RayError, RuntimeError, OSError) as error:
        raise ResourceError(
            f"training with {workers} workers failed: {str(error).splitlines()[0][:200]}",
            "lower hosting.training_workers, or free CPUs of the cluster",
        ) from error
    finally:
        result_file.unlink(missing_ok=True)
        shutil.rmtree(storage, ignore_errors=True)
    if told := result.get("error"):
        raise ERRORS[told["kind"]](told["message"], told["fix"])
    return Trained(**result)


def _work(config: dict[str, Any]) -> None:
    """One rank: the first one reports and publishes."""
    place: Place = config["place"]
    if rank() != 0:
        place = replace(place, progress_file="")
    job: TrainingJob = config["job"]
    try:
        result = asdict(job.run(place))
    except tuple(ERRORS.values()) as error:
        # A verdict on the data, not on the workers: another try would end in the same way.
        kind = type(error).__name__
        result = {"error": {"kind": kind, "message": error.message, "fix": error.fix}}
    if rank() == 0:
        scratch = Path(config["result"] + ".part")
        scratch.write_text(json.dumps(result))
        scratch.replace(config["result"])


def _check_room(workers: int, uses_gpu: bool) -> None:
    """Ray Train itself would wait for ever."""
    import ray

    # CPUs are waited for while others use them; GPUs only until actors have given theirs back.
    room = {"CPU": ray.cluster_resources().get("CPU", 0)}
    if uses_gpu:
        room["GPU"] = wait_for_gpus(workers)
    for name, has in room.items():
        if has < workers:
            raise ResourceError(
                f"{workers} training workers need a {name} each, and the cluster has room for "
                f"{int(has)}",
                f"set hosting.training_workers to {max(1, int(has))}",
            )
