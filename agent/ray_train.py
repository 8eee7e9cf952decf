"""One policy job in several processes, under Ray Train (torch.distributed; gloo on CPUs)."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agent.training.jobs import Place, Trained, policy_job
from agent.training.ranks import rank
from search.errors import ResourceError

Arguments = tuple[Any, ...]


def train_policy_together(arguments: Arguments, place: Place, workers: int) -> Trained:
    """The job's result; every worker reads the same rows and takes its share of each batch.

    Raises ResourceError when the cluster cannot hold the workers or one of them died for good.
    """
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    result_file = Path(place.folder) / f".trained-{place.job_id}.json"
    storage = Path(place.folder).resolve() / f".ray-train-{place.job_id}"
    storage.mkdir(parents=True, exist_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"arguments": arguments, "place": place, "result": str(result_file)},
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=place.device.startswith("cuda"),
            resources_per_worker={"CPU": 1},
        ),
        run_config=RunConfig(
            name=f"ratchet-{place.job_id}", storage_path=str(storage),
            failure_config=FailureConfig(max_failures=1),
        ),
    )  # fmt: skip
    try:
        trainer.fit()
        return Trained(**json.loads(result_file.read_text()))
    except (RayError, RuntimeError, OSError) as error:
        raise ResourceError(
            f"training with {workers} workers failed: {str(error).splitlines()[0][:200]}",
            "lower hosting.training_workers, or free CPUs of the cluster",
        ) from error
    finally:
        result_file.unlink(missing_ok=True)
        shutil.rmtree(storage, ignore_errors=True)


def _work(config: dict[str, Any]) -> None:
    """One rank: the first one reports and publishes."""
    place: Place = config["place"]
    if rank() != 0:
        place = replace(place, progress_file="")
    parent_path, examples, dev, settings, seed = config["arguments"]
    trained = policy_job(parent_path, examples, dev, settings, seed, place)
    if rank() == 0:
        scratch = Path(config["result"] + ".part")
        scratch.write_text(json.dumps(asdict(trained)))
        scratch.replace(config["result"])
