"""Curves of a run for a tracker of experiments, by that library's own writer and offline.

One interface for all of them: a figure has a name, a value and a step. Progress is what feeds it,
so a tracker sees what a terminal sees: losses while the models train, the share solved while the
searches run; and the verdict of each round.
"""

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from agent.progress import Progress
from search.errors import ResourceError

Kind = Literal["none", "tensorboard", "mlflow", "wandb", "trackio"]
PACKAGES: Mapping[str, str] = {
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
}


class Tracker(Protocol):
    """Takes figures; all calls come from one process, `close` last."""

    def log(self, name: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


class Nothing:
    """Where nothing is tracked."""

    def log(self, name: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in a folder: `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        import tensorboard  # noqa: F401  torch's own message does not say what is missing
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / run))
        self._writer.add_text("settings", "\n".join(f"    {k} = {v}" for k, v in settings.items()))

    def log(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MLflow:
    """A local MLflow store, unless MLFLOW_TRACKING_URI names a server."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        import mlflow

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            folder.mkdir(parents=True, exist_ok=True)
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
        mlflow.set_experiment("ratchet")
        self._mlflow: Any = mlflow
        mlflow.start_run(run_name=run)
        mlflow.log_params({k: str(v)[:250] for k, v in settings.items()})

    def log(self, name: str, value: float, step: int) -> None:
        self._mlflow.log_metric(name, value, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class WandB:
    """Weights and Biases, offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run: Any = wandb.init(
            project="ratchet", name=run, dir=str(folder), mode=mode, config=dict(settings)
        )
        self._defined: set[str] = set()

    def log(self, name: str, value: float, step: int) -> None:
        # Its own step only grows, and ours begins anew with each stage: each name has its own axis.
        axis = f"step_{name.replace('/', '_')}"
        if name not in self._defined:
            self._defined.add(name)
            self._run.define_metric(name, step_metric=axis)
        self._run.log({name: value, axis: step})

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """Trackio's local database, in the folder that TRACKIO_DIR or the setting names."""

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve()))
        import trackio

        self._trackio: Any = trackio
        with contextlib.redirect_stdout(sys.stderr):  # it talks, and stdout is for data
            trackio.init(project="ratchet", name=run, config=dict(settings))

    def log(self, name: str, value: float, step: int) -> None:
        self._trackio.log({name: value}, step=step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()


TRACKERS: Mapping[str, Any] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
    "trackio": Trackio,
}


def open_tracker(kind: Kind, folder: Path, run: str, settings: Mapping[str, Any]) -> Tracker:
    """The tracker of a run. Raises ResourceError where its library is not installed."""
    if kind == "none":
        return Nothing()
    try:
        found: Tracker = TRACKERS[kind](folder, run, settings)
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"tracking = {kind} needs {error.name}, which is not installed",
            f"pip install {PACKAGES[kind]}, or set tracking to none",
        ) from error
    return found


class Tracked:
    """Progress that a tracker sees, too."""

    def __init__(self, progress: Progress, tracker: Tracker) -> None:
        self.progress = progress
        self.tracker = tracker
        self._stage = ""
        self._before = 0
        """Steps of ended stages of this name: a second round goes on in its curves."""
        self._last: dict[str, int] = {}

    def stage(self, name: str, total: int, unit: str) -> None:
        self._stage = str(name)
        self._before = self._last.get(self._stage, 0)
        self.progress.stage(name, total, unit)

    def update(self, done: int, **figures: Any) -> None:
        step = self._before + done
        self._last[self._stage] = max(step, self._last.get(self._stage, 0))
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.tracker.log(f"{self._stage}/{name}", float(value), step)
        self.progress.update(done, **figures)

    def say(self, text: str) -> None:
        self.progress.say(text)

    def close(self) -> None:
        self.progress.close()


def log_round(tracker: Tracker, number: int, document: Mapping[str, Any]) -> None:
    """What a round came to: all numbers of its verdict, and the accuracies before and after."""
    for name, value in (document.get("verdict") or {}).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            tracker.log(f"round/{name}", float(value), number)
    tracker.log("round/promoted", float(document.get("stage") == "promoted"), number)
    for side in ("before", "after"):
        for mode in ("greedy", "search"):
            found = (document.get(side) or {}).get(mode)
            if found and found.get("n"):
                tracker.log(f"round/{mode}_{side}", found["correct"] / found["n"], number)
