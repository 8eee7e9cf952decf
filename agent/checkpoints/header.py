"""The header of a checkpoint: all that can be known of a directory without reading its weights.

A checkpoint is an ordinary transformers directory: config.json, safetensors, tokenizer files.
Nothing in it is executed, and nothing pickled is opened: a directory that asks for code, or has no
other weights than pickled ones, is refused; other files that lie in it are ignored.
`ratchet.json` beside them, where present, carries our own notes: role, parent, recipe, report.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.networks.architecture import Architecture
from critics.calibration import Calibration
from search.errors import CheckpointError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
CODE_KEYS = ("auto_map", "custom_pipelines", "quantization_config")


@dataclass(frozen=True, slots=True)
class Header:
    """What the JSON files of a directory say, and how large its weights are."""

    path: Path
    architecture: Architecture
    config: dict[str, Any]
    notes: dict[str, Any]
    """Contents of ratchet.json; empty for a checkpoint that we did not write."""
    shards: tuple[str, ...]
    """Names of the safetensors files."""
    num_bytes: int
    """Of all shards."""

    @property
    def is_critic(self) -> bool:
        """Whether it has a scalar head instead of one over the vocabulary."""
        return any("SequenceClassification" in a for a in self.config.get("architectures") or [])

    @property
    def report(self) -> dict[str, Any]:
        """What was measured when it was trained; empty for a checkpoint without notes."""
        found: dict[str, Any] = self.notes.get("report", {})
        return found

    @property
    def auc(self) -> float | None:
        """Of a critic on held-out labelled texts; None where it was not measured."""
        found = self.report.get("auc")
        return None if found is None else float(found)

    @property
    def calibration(self) -> Calibration:
        """How a critic's logits become probabilities; the identity where nothing was fitted."""
        found = self.report.get("calibration", {})
        return Calibration(float(found.get("scale", 1.0)), float(found.get("shift", 0.0)))


def read_header(path: Path | str) -> Header:
    """Look a directory through without reading weights. Raises CheckpointError with the way out."""
    path = Path(path)
    try:
        return _read(path)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"config.json or an index of {path} holds a value that cannot be: "
            f"{type(error).__name__}: {error}",
            "give a plain checkpoint as transformers writes it",
        ) from error


def check_files(path: Path) -> None:
    """Raises CheckpointError for a directory that is not there, or whose only weights are of a kind
    that is never opened."""
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint directory {str(path)!r} is not there",
            "give the directory that holds config.json and model.safetensors",
        )
    files = sorted(path.iterdir())
    has_weights = any(f.suffix == ".safetensors" for f in files)
    for file in files:
        _check_file(path, file, has_weights)


def _read(path: Path) -> Header:
    check_files(path)
    config = _read_json(path, "config.json")
    for key in CODE_KEYS:
        if config.get(key):
            raise CheckpointError(
                f"config.json of {path} has {key!r}, which Ratchet does not follow",
                "use a plain checkpoint without remote code or quantised weights",
            )
    try:
        architecture = Architecture.from_config(config)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.fix) from error
    if not all(isinstance(name, str) for name in config.get("architectures") or []):
        raise TypeError(f"'architectures' is {config['architectures']!r}")
    shards = _shards(path)
    notes = _read_json(path, "ratchet.json") if (path / "ratchet.json").is_file() else {}
    for name in ("report", "training"):
        if not isinstance(notes.get(name, {}), dict):
            raise TypeError(f"ratchet.json: {name!r} is {notes[name]!r}")
    num_bytes = sum((path / name).stat().st_size for name in shards)
    return Header(path, architecture, config, notes, shards, num_bytes)


def _check_file(path: Path, file: Path, has_weights: bool) -> None:
    if file.suffix in PICKLED and not has_weights:
        raise CheckpointError(
            f"{file.name} in {path} is not safetensors and is never opened",
            "convert the weights with safetensors",
        )
    if (
        file.is_symlink()
        and path.resolve() not in file.resolve().parents
        and path.resolve().parent.parent / "blobs" not in file.resolve().parents
    ):
        raise CheckpointError(
            f"{file.name} in {path} is a link that leaves the directory",
            "copy the file into the directory",
        )


def _read_json(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    if not file.is_file():
        raise CheckpointError(f"{path} has no {name}", "give a transformers checkpoint directory")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not JSON: {error}", "download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object", "download it again")
    return value


def _shards(path: Path) -> tuple[str, ...]:
    """As transformers: a whole model.safetensors counts, whatever an index beside it says."""
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file() or not index.is_file():
        names = ["model.safetensors"]
    else:
        names = sorted(set(_read_json(path, index.name).get("weight_map", {}).values()))
    for name in names:
        if "/" in name or not (path / name).is_file():
            raise CheckpointError(
                f"{path} has no {name}", "give a directory with all its safetensors files"
            )
    return tuple(names)
