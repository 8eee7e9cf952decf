"""Training jobs in this process: what went wrong inside one is told, not thrown about."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from agent.checkpoints.trained import Trained
from agent.config.settings import HostingSettings
from agent.progress import Silent
from agent.training.fit import DivergedError
from agent.training.job import Place, TrainingJob
from agent.training.optimizer import TrainingSettings
from agent.training.runner import Results, TrainingRunner
from search.errors import ResourceError


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeJob(TrainingJob):
    """Trains nothing and ends as it is told to."""

    raises: Exception | None = None

    def run(self, place: Place) -> Trained:
        if self.raises is not None:
            raise self.raises
        return Trained(self.role, "v", place.folder, "p", 1, "", {})


def job(role: str, raises: Exception | None = None) -> FakeJob:
    return FakeJob(role=role, parent="p", settings=TrainingSettings(), seed=0, raises=raises)


def run(folder: Path, *jobs: FakeJob) -> Results:
    hosting = HostingSettings(hosting="inline", device="cpu")
    return TrainingRunner(hosting, folder).run(jobs, Silent())


def test_a_job_that_diverges_takes_no_other_one_with_it(tmp_path: Path) -> None:
    nan = DivergedError("the loss of value became nan", "lower training.learning_rate")
    results = run(tmp_path, job("policy"), job("value", nan), job("outcome"))
    assert list(results) == ["policy", "value", "outcome"]
    assert all(isinstance(results[role], Trained) for role in ("policy", "outcome"))
    assert results["value"] is nan


def test_a_job_without_memory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="9 GiB") as caught:
        run(tmp_path, job("policy", torch.OutOfMemoryError("tried to allocate 9 GiB")))
    assert "training.batch_size" in caught.value.fix
