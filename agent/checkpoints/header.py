"""The header of a checkpoint: all that can be known of a directory without reading its weights.

A checkpoint is an ordinary transformers directory: config.json, safetensors, tokenizer files.
Nothing in it is executed, and nothing pickled is opened: a directory that asks for code, or has no
other weights than pickled ones, is refused; other files that lie in it are ignored.
`ratchet.json` beside them, where present, carries our own notes: role, parent, recipe, report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from agent.checkpoints.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    adapter_shapes,
    base_folder,
    read_shape,
)
from agent.checkpoints.files import (
    MAX_BYTES,
    link_target,
    opened,
    parse_json,
    read_bytes,
    read_json,
)
from agent.checkpoints.tensor_list import TensorListError, tensor_shapes
from agent.networks.adapter_shape import AdapterShape
from agent.networks.architecture import Architecture
from agent.networks.shapes import Shapes, own_name, parameter_shapes
from critics.calibration import Calibration
from search.errors import CheckpointError

PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")
COMPANIONS = (
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"),
    "added_tokens.json",
)
INDEX = "model.safetensors.index.json"
MAX_SHARDS = 2_000
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
    config_raw: bytes = field(repr=False)
    """The bytes of config.json that were read."""
    adapter: AdapterShape | None
    """Of the adapters that these weights are; None where they are whole."""
    base: "Header | None"
    """The checkpoint that the adapters are put on."""

    @property
    def num_parameters(self) -> int:
        shapes = parameter_shapes(self.architecture, self.is_critic).values()
        return sum(prod(shape) for shape in shapes)

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
        return self._calibration("calibration")

    @property
    def calibration_alone(self) -> Calibration:
        """The same for those who know of no doubts about a text."""
        return self._calibration(
            "calibration_alone" if "calibration_alone" in self.report else "calibration"
        )

    def _calibration(self, key: str) -> Calibration:
        found = self.report.get(key, {})
        return Calibration(
            float(found.get("scale", 1.0)),
            float(found.get("shift", 0.0)),
            bool(found.get("is_bent", False)),
            tuple(float(weight) for weight in found.get("doubts", ())),
        )


def read_header(path: Path | str) -> Header:
    """Look a directory through without reading weights. Raises CheckpointError with the way out."""
    path = Path(path)
    try:
        return _read(path)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
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
    if not (path / "config.json").exists():
        raise CheckpointError(
            f"{path} has no config.json", "give a transformers checkpoint directory"
        )
    raw = read_bytes(path, "config.json")
    config = parse_json(raw, path / "config.json")
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
    _check_companions(path, config, architecture)
    shards = _shards(path)
    notes = read_json(path, "ratchet.json") if (path / "ratchet.json").exists() else {}
    for name in ("report", "training"):
        if not isinstance(notes.get(name, {}), dict):
            raise TypeError(f"ratchet.json: {name!r} is {notes[name]!r}")
    num_bytes = sum((path / name).stat().st_size for name in shards)
    adapter = base = None
    if shards == (ADAPTER_WEIGHTS,):
        adapter = read_shape(path)
        base = _base(base_folder(path, notes))
    header = Header(
        path=path,
        architecture=architecture,
        config=config,
        notes=notes,
        shards=shards,
        num_bytes=num_bytes,
        config_raw=raw,
        adapter=adapter,
        base=base,
    )
    if base is not None:
        _check_alike(header, base)
    check_shapes(header, [_listed(path, name) for name in shards])
    return header


def _check_companions(path: Path, config: dict[str, Any], architecture: Architecture) -> None:
    """The JSON files that tokenizer and generation read: bounded, no code, ends that exist."""
    said = {"config.json": config}
    for name in COMPANIONS:
        if (path / name).is_symlink() or (path / name).exists():
            said[name] = read_json(path, name)
            if said[name].get("auto_map"):
                raise CheckpointError(
                    f"{path / name} has 'auto_map', which Ratchet does not follow",
                    "use a tokenizer that is a tokenizer.json",
                )
    for name in ("config.json", "generation_config.json"):
        value = said.get(name, {}).get("eos_token_id")
        for end in value if isinstance(value, list) else [] if value is None else [value]:
            if type(end) is not int or not 0 <= end < architecture.vocab_size:
                raise CheckpointError(
                    f"{path / name} has eos_token_id {end!r:.80}, but the network has "
                    f"{architecture.vocab_size:,} tokens",
                    "correct it, or save tokenizer and model of one checkpoint",
                )
    size = (path / "tokenizer.json").stat().st_size if (path / "tokenizer.json").is_file() else 0
    if size > MAX_BYTES["tokenizer.json"]:
        raise CheckpointError(
            f"{path / 'tokenizer.json'} has {size:,} bytes, over {MAX_BYTES['tokenizer.json']:,}",
            "give the tokenizer that belongs to the model",
        )


def _listed(path: Path, name: str) -> Shapes:
    with opened(path, name) as handle:
        return listed_in(handle, path / name)


def listed_in(handle: int, file: Path) -> Shapes:
    """The tensors of an opened file. Raises CheckpointError for a corrupt or forged one."""
    try:
        return tensor_shapes(handle)
    except TensorListError as error:
        raise CheckpointError(
            f"{file} is corrupt, or not what safetensors writes: {error}",
            "copy or download the checkpoint again; float8 and quantised weights are saved anew "
            "as bfloat16",
        ) from error


def _base(path: Path) -> Header:
    check_files(path)
    if _shards(path) == (ADAPTER_WEIGHTS,):
        raise CheckpointError(
            f"{path} holds adapters itself, and adapters are put on whole weights",
            "name the checkpoint that has all weights",
        )
    return _read(path)


def _check_alike(header: Header, base: Header) -> None:
    """Raises CheckpointError for adapters whose network is not their base's, a drafter's fewer
    blocks apart: what is shared by name must be the same."""
    own = replace(header.architecture, num_layers=base.architecture.num_layers)
    if own != base.architecture or header.architecture.num_layers > base.architecture.num_layers:
        raise CheckpointError(
            f"config.json of {header.path} is of another network than its base {base.path}",
            "give the config.json that the adapters were trained with",
        )


def check_shapes(header: Header, listed: Sequence[Shapes]) -> None:
    """Raises CheckpointError where the weights are not those that config.json asks for."""
    found: Shapes = {}
    for name, shape in ((n, s) for shapes in listed for n, s in shapes.items()):
        own = own_name(header.architecture, name)
        if own in found and header.architecture.vision is not None:
            raise CheckpointError(
                f"the weights in {header.path} have {own[:80]!r} under two names",
                "save the checkpoint again with transformers",
            )
        if own is not None:
            found[own] = shape
    expected = parameter_shapes(header.architecture, header.is_critic)
    if header.base is not None and header.adapter is not None:
        base = parameter_shapes(header.base.architecture, header.base.is_critic)
        needed = {name: shape for name, shape in base.items() if name in expected}
        found = adapter_shapes(header.path, header.adapter, needed, found)
    if header.architecture.is_tied:
        found.pop(own_name(header.architecture, "lm_head.weight") or "", None)
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    if missing or unknown:
        raise CheckpointError(
            f"the weights in {header.path} do not fit its config.json "
            f"(missing {missing[:3]}, unknown {[name[:80] for name in unknown[:3]]})",
            "use config.json and weights of the same model",
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{name} in {header.path} has shape {found[name]}, config.json asks for {shape}",
                "use config.json and weights of the same model",
            )


def _check_file(path: Path, file: Path, has_weights: bool) -> None:
    if file.suffix in PICKLED and not has_weights:
        raise CheckpointError(
            f"{file.name} in {path} is not safetensors and is never opened",
            "convert the weights with safetensors",
        )
    if file.is_symlink():
        link_target(path, file)


def _shards(path: Path) -> tuple[str, ...]:
    """As transformers: a whole model.safetensors counts, whatever an index beside it says."""
    index = path / INDEX
    is_whole = (path / "model.safetensors").is_file() or index.is_file()
    if not is_whole and (path / ADAPTER_CONFIG).is_file():
        names = [ADAPTER_WEIGHTS]
    elif (path / "model.safetensors").is_file() or not index.is_file():
        names = ["model.safetensors"]
    else:
        names = sorted(set(read_json(path, index.name).get("weight_map", {}).values()))
    if len(names) > MAX_SHARDS:
        raise CheckpointError(
            f"{path} has {len(names):,} weight files, over {MAX_SHARDS}", "save it in fewer"
        )
    for name in names:
        if "/" in name or not ((path / name).is_symlink() or (path / name).is_file()):
            raise CheckpointError(
                f"{path} has no {name}", "give a directory with all its safetensors files"
            )
    return tuple(names)
