"""Training jobs in this process: what went wrong inside one is told, not thrown about."""

from pathlib import Path
from typing import Any

import pytest
import torch
from agent.training.jobs import Place, Trained

from agent.progress import Silent
from agent.training.fit import DivergedError
from agent.training.runner import Workshop
from search.errors import ResourceError


def good(role: str, place: Place) -> Trained:
    return Trained(role, "v", place.folder, "p", 1, {})


def diverges(role: str, place: Place) -> Trained:
    raise DivergedError(f"the loss of {role} became nan", "lower training.learning_rate")


def exhausts(role: str, place: Place) -> Trained:
    raise torch.OutOfMemoryError("tried to allocate 9 GiB")


def run(folder: Path, *jobs: Any) -> list[Any]:
    workshop = Workshop("inline", folder, 1, "cpu")
    return list(workshop.run([(job, (name,)) for name, job in jobs], Silent()))


def test_a_job_that_diverges_takes_no_other_one_with_it(tmp_path: Path) -> None:
    policy, value, outcome = run(tmp_path, ("policy", good), ("value", diverges), ("outcome", good))
    assert (policy.role, outcome.role) == ("policy", "outcome")
    assert isinstance(value, DivergedError) and "value" in value.message


def test_a_job_without_memory_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="9 GiB") as caught:
        run(tmp_path, ("policy", exhausts))
    assert "training.batch_size" in caught.value.fix
