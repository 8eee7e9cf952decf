"""A training job: frozen values that say everything a model's new weights depend on.

A job reads a checkpoint and rows, writes a new checkpoint, and returns where it is. It runs here or
in another process. Run again after a crash it writes the same weights.
"""

import contextlib
import gc
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.publish import dtype_on_disk, publish
from agent.checkpoints.trained import Trained
from agent.checkpoints.weights import load_adapted, load_model
from agent.engine.memory import return_freed
from agent.networks.adapter_shape import AdapterShape
from agent.networks.device import chosen_device, use_part_of_gpu
from agent.networks.language_model import LanguageModel
from agent.pictures.preprocessing import give_pictures
from agent.training import sharding
from agent.training.fit import OnStep, training_dtype
from agent.training.optimizer import TrainingSettings
from agent.training.ranks import rank
from store.states import role_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job writes, and with how many threads it runs."""

    folder: str
    threads: int = 1
    device: str = "auto"
    """`auto` takes cuda where the job runs, if there is one."""
    progress_file: str = ""
    job_id: str = ""
    """Tells the jobs of one run apart in file names."""
    gpu_part: float = 1.0
    """Of a GPU that jobs share."""
    pictures: str = ""
    """Folder of the pictures that rows have, by digest; empty: they have none."""

    def report(self, done: int, total: int, loss: float) -> None:
        if self.progress_file:
            scratch = f"{self.progress_file}.{os.getpid()}"
            with contextlib.suppress(OSError):  # a full disk for progress ends no training
                Path(scratch).write_text(json.dumps({"done": done, "total": total, "loss": loss}))
                os.replace(scratch, self.progress_file)


class Curve:
    """Passes a job's progress on to its place, and keeps it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.points: list[tuple[int, float]] = []

    def report(self, done: int, total: int, loss: float) -> None:
        self.points.append((done, loss))
        self.place.report(done, total, loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob(ABC):
    """Raises DivergedError or NonFiniteError when the training fails by itself."""

    role: str
    parent: str
    """Directory of the checkpoint that it starts from."""
    settings: TrainingSettings
    seed: int

    can_be_shared: ClassVar[bool] = False
    """Whether several processes may train it together, each on its rows of a batch."""
    beside_bytes: ClassVar[float] = 0.0
    """Of a number of the model: further models that are held beside it on a GPU."""

    @abstractmethod
    def run(self, place: Place) -> Trained:
        """Load the parent, train, publish."""

    def published(
        self, model: LanguageModel, parent: Checkpoint, report: Mapping[str, Any], curve: Curve
    ) -> Trained:
        if rank() != 0:  # of several processes with the same weights the first one writes them
            return Trained(self.role, "", "", parent.version, 0, "", dict(report))
        notes = {"report": dict(report), "seed": self.seed}
        child = publish(model, parent, Path(curve.place.folder), role_of(self.role), notes)
        return Trained.of(self.role, child, parent.version, report, curve.points)


def adapted_model(
    parent: Checkpoint, settings: TrainingSettings, seed: int, device: str
) -> LanguageModel:
    """The parent's network as it is to be trained: whole, or adapters on weights that stay.

    The parent's adapters are trained on, or merged where all weights are to train. Weights that
    stay are held as the products are made, where the files hold no more of them.
    """
    if not settings.lora_rank:
        model = load_model(parent, device=device)
        if model.adapter is not None:
            model.merge()
        return model
    shape = AdapterShape.of_rank(settings.lora_rank)
    held = training_dtype(settings, device, parent.num_parameters)
    if held != dtype_on_disk(parent):
        held = torch.float32
    return load_adapted(parent, shape, seed, held, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopJob(TrainingJob):
    """A job whose training is a loop of ours over the parent's weights."""

    def run(self, place: Place) -> Trained:
        torch.set_num_threads(place.threads)
        use_part_of_gpu(place.gpu_part)
        parent = verify_checkpoint(self.parent)
        device = chosen_device(place.device)
        if sharding.is_wanted(parent, self.settings):
            model = sharding.load_sharded(parent, device)
        else:
            model = adapted_model(parent, self.settings, self.seed, device)
        give_pictures(model, parent, place.pictures)
        curve = Curve(place)
        try:
            model, report = self.train(model, parent, curve.report)
            if model.adapter is not None:
                report["lora_rank"] = model.adapter.rank
            return self.published(sharding.whole(model), parent, report, curve)
        finally:
            del model
            gc.collect()  # what measures a model knows it, and is known by it
            return_freed()

    @abstractmethod
    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        """(model to publish, report); the model given may be trained in place."""
