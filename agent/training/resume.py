"""A training under way on disk: after a kill the same job goes on from there to the same weights.

One safetensors file holds the weights, the optimiser's state and, with early stopping, the best
weights so far; it is replaced as a whole. A file of another job is left alone and not used.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agent.networks.language_model import LanguageModel
from agent.training.early_stop import Snapshot
from agent.training.optimizer import Optimizer
from store.disks import unwritable

EVERY_S = 120.0


@dataclass(slots=True)
class Resume:
    """Where a job's state lies, and when it is written next."""

    file: Path
    job: str
    """Digest of all that the job's result depends on."""
    every_s: float = EVERY_S
    _written: float = field(default_factory=time.monotonic)

    def load(
        self, model: LanguageModel, optimizer: Optimizer, snapshot: Snapshot | None
    ) -> list[float]:
        """Put everything as it was; the losses of the steps that need not be taken again."""
        try:
            with safe_open(self.file, framework="pt") as opened:
                said = json.loads((opened.metadata() or {}).get("state", "{}"))
                if said.get("job") != self.job:
                    return []
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError):
            return []
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(found[f"weight.{name}"])
        optimizer.load(_of("optimizer.", found))
        if snapshot is not None:
            snapshot.load(said["snapshot"], _of("best.", found))
        return [float(loss) for loss in said["losses"]]

    def save(
        self,
        model: LanguageModel,
        optimizer: Optimizer,
        snapshot: Snapshot | None,
        losses: list[float],
    ) -> None:
        """Write the state when it is time. Raises ResourceError where there is no room."""
        if time.monotonic() - self._written < self.every_s:
            return
        tensors = {
            f"weight.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad
        }
        tensors |= {f"optimizer.{name}": t for name, t in optimizer.state().items()}
        said: dict[str, object] = {"job": self.job, "losses": losses}
        if snapshot is not None:
            said["snapshot"], best = snapshot.state()
            tensors |= {f"best.{name}": t for name, t in best.items()}
        scratch = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        on_disk = {name: t.to("cpu").contiguous().clone() for name, t in tensors.items()}
        try:
            save_file(on_disk, scratch, metadata={"state": json.dumps(said)})
            os.replace(scratch, self.file)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                scratch.unlink()
            num_bytes = sum(t.nbytes for t in on_disk.values())
            what = "the state of the training"
            raise unwritable(self.file.parent, what, error, "--out", num_bytes) from error
        self._written = time.monotonic()

    def forget(self) -> None:
        """The job is over."""
        with contextlib.suppress(OSError):
            self.file.unlink()


def _of(prefix: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
