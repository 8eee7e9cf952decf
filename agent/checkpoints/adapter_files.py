"""A checkpoint of adapters: PEFT's two files, config.json, and in ratchet.json their base.

Weights that the adapters are put on lie in their own directory, once for all that lean on them.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.checkpoints.files import read_json
from agent.networks.adapter_shape import A, AdapterShape, B
from agent.networks.shapes import MAPS, Shapes
from search.errors import CheckpointError

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEAD = "score.weight"
"""Of a critic: what is written whole."""
PREFIX = "base_model.model."
"""Of all names in PEFT's file."""
MAX_RANK = 4_096
_FREE = (
    *("peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout"),
    *("target_modules", "modules_to_save", "inference_mode", "peft_version", "revision"),
    *("megatron_core", "qalora_group_size", "auto_mapping"),
)
"""Keys of PEFT's settings that are read elsewhere or say nothing of the computation."""
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian")}
"""Values with which others make no difference; all that are left must be absent, false or empty."""


def read_shape(path: Path) -> AdapterShape:
    """What adapter_config.json says. Raises CheckpointError for what is not computed here."""
    config = read_json(path, ADAPTER_CONFIG)
    file = path / ADAPTER_CONFIG
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{file} has peft_type {config.get('peft_type')!r:.80}, which is not computed",
            "give an adapter of type LORA",
        )
    wrong = [
        name
        for name, value in config.items()
        if name not in _FREE and value and value not in _PLAIN.get(name, ())
    ]
    if wrong:
        raise CheckpointError(
            f"{file} has {wrong[0]} {config[wrong[0]]!r:.80}, which is not computed",
            "train the adapter without it, or merge it into its base with PEFT",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MAX_RANK:
        raise CheckpointError(
            f"{file} has r {rank!r:.80}, which is no whole number from 1 to {MAX_RANK:,}",
            "give the adapter_config.json that belongs to the weights",
        )
    if not isinstance(alpha, int | float) or not 0 < alpha <= 1e6:
        raise CheckpointError(
            f"{file} has lora_alpha {alpha!r:.80}, which is no number from 0 to 1e6",
            "give the adapter_config.json that belongs to the weights",
        )
    return AdapterShape(rank, float(alpha))


def shape_config(shape: AdapterShape, is_critic: bool, base: Path) -> dict[str, Any]:
    """The adapter_config.json that PEFT reads."""
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if is_critic else "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": list(MAPS),
        "modules_to_save": ["score"] if is_critic else None,
        "inference_mode": True,
    }


def base_folder(path: Path, notes: Mapping[str, Any]) -> Path:
    """Where the base lies: as ratchet.json says, else beside the adapters under the same name."""
    said = notes.get("base")
    if not isinstance(said, dict) or not all(isinstance(said.get(k), str) for k in _BASE):
        raise CheckpointError(
            f"ratchet.json of {path} does not say which base its adapters are of",
            'add "base": {"path": DIRECTORY, "version": VERSION} to it, or merge the adapter into '
            "its base with PEFT",
        )
    named = path / said["path"]  # a relative one counts from here
    for folder in (named, path.resolve().parent / named.name):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            if folder.is_dir() and folder.resolve() != path.resolve():
                return folder
    raise CheckpointError(
        f"the base of the adapters in {path} is not there: {named}",
        f"put the directory back, or copy it beside {path.name}",
    )


_BASE = ("path", "version")


def adapter_shapes(
    path: Path, shape: AdapterShape, base: Shapes, listed: Shapes
) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the weights that are left when the adapters are put on their base: the
    base's, and a critic's head.

    Raises CheckpointError where the file holds anything but adapters on all linear maps of the
    blocks and such a head: other weights would take the place of the base's.
    """
    expected: Shapes = {}
    for name, size in base.items():
        stem = name.removesuffix(".weight")
        if len(size) == 2 and stem.rpartition(".")[2] in MAPS:
            expected[stem + A], expected[stem + B] = (shape.rank, size[1]), (size[0], shape.rank)
    found = dict(base)
    for name, size in listed.items():
        own = name.removeprefix(PREFIX)
        if own == name:
            raise _unfit(path, f"{name[:80]} does not begin with {PREFIX!r}")
        if own == HEAD:
            found[own] = size
        elif expected.pop(own, None) != size:
            raise _unfit(path, f"{own[:80]} of shape {size} is none of an adapter of {shape.rank}")
    if expected:
        missing = next(iter(expected))
        raise _unfit(path, f"{missing} is missing, and adapters are on all maps of all blocks here")
    return found


def _unfit(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"the adapters in {path} do not fit their base: {cause}",
        "give the base that they were trained on",
    )


def peft_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    return {PREFIX + name: tensor for name, tensor in tensors.items()}
