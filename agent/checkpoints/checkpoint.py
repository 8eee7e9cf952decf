"""Checkpoints on disk: what may be opened, what is in it, and its digest.

A checkpoint is an ordinary transformers directory: config.json, safetensors, tokenizer files.
Nothing in it is executed; a directory that asks for code or holds pickled weights is refused.
`ratchet.json` beside them, where present, carries our own notes: role, parent, recipe.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from agent.checkpoints.manifest import MANIFEST, file_sha, verified_files
from agent.networks.llama import Architecture, Decoder
from search.errors import CheckpointError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
CODE_KEYS = ("auto_map", "custom_pipelines", "quantization_config")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory that was looked through and may be loaded."""

    path: Path
    version: str
    """First 16 hexadecimal digits of the digest over the weights and config.json."""
    architecture: Architecture
    config: dict[str, Any]
    notes: dict[str, Any]
    """Contents of ratchet.json; empty for a checkpoint that we did not write."""
    num_bytes: int
    manifest_sha: str
    """SHA-256 of manifest.json; empty for a checkpoint without one."""

    @property
    def is_critic(self) -> bool:
        return any("SequenceClassification" in a for a in self.config.get("architectures") or [])


def inspect_checkpoint(path: Path | str) -> Checkpoint:
    """Look a directory through without loading it. Raises CheckpointError with the way out."""
    path = Path(path)
    try:
        return _inspected(path)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"config.json or an index of {path} holds a value that cannot be: "
            f"{type(error).__name__}: {error}",
            "give a plain checkpoint as transformers writes it",
        ) from error


def _inspected(path: Path) -> Checkpoint:
    if not path.is_dir():
        raise CheckpointError(
            f"checkpoint directory {str(path)!r} is not there",
            "give the directory that holds config.json and model.safetensors",
        )
    for file in sorted(path.iterdir()):
        _check_file(path, file)
    files = verified_files(path)
    config = _read_json(path, "config.json")
    for key in CODE_KEYS:
        if key in config:
            raise CheckpointError(
                f"config.json of {path} has {key!r}, which Ratchet does not follow",
                "use a plain checkpoint without remote code or quantised weights",
            )
    architecture = Architecture.from_config(config)
    if not all(isinstance(name, str) for name in config.get("architectures") or []):
        raise TypeError(f"'architectures' is {config['architectures']!r}")
    shards = _shards(path)
    digest = hashlib.sha256((path / "config.json").read_bytes())
    num_bytes = 0
    for shard in shards:
        digest.update(bytes.fromhex(files.get(shard.name) or file_sha(shard)))
        num_bytes += shard.stat().st_size
    notes = _read_json(path, "ratchet.json") if (path / "ratchet.json").is_file() else {}
    for name in ("report", "training"):
        if not isinstance(notes.get(name, {}), dict):
            raise TypeError(f"ratchet.json: {name!r} is {notes[name]!r}")
    manifest = file_sha(path / MANIFEST) if files else ""
    return Checkpoint(
        path, digest.hexdigest()[:16], architecture, config, notes, num_bytes, manifest
    )


def _check_file(path: Path, file: Path) -> None:
    if file.suffix in PICKLED and not file.name.startswith("training_args"):
        raise CheckpointError(
            f"{file.name} in {path} is not safetensors and is never opened",
            "convert the weights with safetensors and remove that file",
        )
    if file.suffix == ".py":
        raise CheckpointError(
            f"{path} brings code of its own ({file.name}), which is never run",
            "use a checkpoint of a built-in architecture and remove that file",
        )
    if (
        file.is_symlink()
        and path.resolve() not in file.resolve().parents
        and "blobs" not in str(file.resolve())
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


def _shards(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    names = (
        sorted(set(_read_json(path, index.name).get("weight_map", {}).values()))
        if index.is_file()
        else ["model.safetensors"]
    )
    for name in names:
        if "/" in name or not (path / name).is_file():
            raise CheckpointError(
                f"{path} has no {name}", "give a directory with all its safetensors files"
            )
    return [path / name for name in names]


def read_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors of a checkpoint. Raises CheckpointError for a corrupt or non-finite one."""
    tensors: dict[str, Tensor] = {}
    for shard in _shards(checkpoint.path):
        try:
            with safe_open(str(shard), framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    tensors[name] = file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{shard} is corrupt: {error}", "copy or download the checkpoint again"
            ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{name} in {checkpoint.path} holds NaN or infinite weights",
                "use an earlier checkpoint",
            )
    return tensors


def load_decoder(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Decoder:
    """The network with its weights, in evaluation mode."""
    decoder = Decoder(checkpoint.architecture, is_critic=checkpoint.is_critic)
    tensors = read_tensors(checkpoint)
    if checkpoint.architecture.is_tied:
        tensors.pop("lm_head.weight", None)
    expected = dict(decoder.named_parameters())
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(k for k in tensors.keys() - expected.keys() if "rotary_emb" not in k)
    if missing or unknown:
        raise CheckpointError(
            f"the weights in {checkpoint.path} do not fit its config.json "
            f"(missing {missing[:3]}, unknown {unknown[:3]})",
            "use config.json and weights of the same model",
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            if parameter.shape != tensors[name].shape:
                raise CheckpointError(
                    f"{name} in {checkpoint.path} has shape {tuple(tensors[name].shape)}, "
                    f"config.json asks for {tuple(parameter.shape)}",
                    "use config.json and weights of the same model",
                )
            parameter.copy_(tensors[name])
    return decoder.to(device=device, dtype=dtype).eval()
