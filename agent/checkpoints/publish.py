"""New weights reach a reader whole or not at all.

Files are written into a directory of their own, flushed, checked for non-finite values, and the
directory is renamed into place; its name carries the digest, which is the version.
"""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from agent.checkpoints.adapter_files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    peft_names,
    shape_config,
)
from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.header import INDEX, Header
from agent.checkpoints.manifest import MANIFEST, file_sha, write_manifest
from agent.checkpoints.model_refs import CRITIC_ROLES
from agent.networks.language_model import LanguageModel
from agent.networks.registry import class_name
from search.errors import CheckpointError, RatchetError
from store.disks import unwritable
from store.leases import is_gone, owner_name

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.*",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)
"""Patterns of what a policy's descendants keep: all that its tokenizer consists of, its end tokens
and its licence."""
WHOLE = "model.safetensors"
FROZEN, TUNED = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
"""Weights that a training left as they were, and the others: where there are any of the first."""
DEMONSTRATIONS = "demonstrations.jsonl"
"""What a policy was taught with; goes from version to version (agent.training.rehearsal)."""


class NonFiniteError(RatchetError):
    """The trained weights are not all finite."""


def publish(
    model: LanguageModel,
    parent: Checkpoint,
    folder: Path,
    role: str,
    notes: dict[str, Any],
    dtype: torch.dtype | None = None,
    alike: Sequence[Checkpoint] = (),
) -> Checkpoint:
    """Write a checkpoint below `folder` and return it. Raises NonFiniteError or ResourceError.

    config.json and the tokenizer are the parent's; the number of layers and the kind of head are
    the model's. Without `dtype` the weights are written as the parent's are (`dtype_on_disk`). The
    same weights and notes published twice give the same directory. Frozen weights are a file of
    their own: one that the parent or one of those `alike` has already is linked, so that the disk
    holds it once. Of a network with adapters these alone are written, in float32, and a critic's
    head; their base is the parent's, or the parent itself.
    """
    dtype = dtype_on_disk(parent) if dtype is None else dtype
    is_adapted = model.adapter is not None
    tensors = {
        name: parameter.detach().to("cpu", torch.float32 if is_adapted else dtype).contiguous()
        for name, parameter in model.named_parameters()
        if not is_adapted or model.is_own(name)
    }
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{name} of the trained {role} is not finite", "lower the rate")
    scratch = folder / f".writing {owner_name()} {uuid.uuid4().hex}"
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    try:
        scratch.mkdir(parents=True)
        kept = {k: parent.notes[k] for k in ("task", "training") if k in parent.notes}
        own = kept | {"role": role, "parent": parent.version} | notes
        frozen = set() if is_adapted else {name for name, _ in model.frozen()}
        if model.adapter is not None:
            own["base"] = _base(parent.whole, folder)
            shape = shape_config(model.adapter, model.is_critic, parent.whole.path.resolve())
            dump(scratch / ADAPTER_CONFIG, shape)
        for name, part in _files(tensors, frozen, is_adapted).items():
            save_file(part, scratch / name, metadata={"format": "pt"})
        if frozen:
            dump(scratch / INDEX, _index(tensors, frozen))
            _link(scratch, (parent, *alike))
        _write(scratch, parent, _config(model, parent, role, notes, dtype), own, tensors)
        version = verify_checkpoint(scratch).version
        final = folder / f"{role}-{version}"
        if not (final.exists() and is_sound(final, version)):
            take_place(scratch, final)
        return verify_checkpoint(final)
    except (OSError, SafetensorError) as error:
        what = f"the {role} checkpoint"
        raise unwritable(folder, what, error, "--checkpoints", num_bytes) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _files(
    tensors: Mapping[str, torch.Tensor], frozen: Set[str], is_adapted: bool
) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors by the file that they are written to."""
    if is_adapted:
        return {ADAPTER_WEIGHTS: peft_names(tensors)}
    if not frozen:
        return {WHOLE: dict(tensors)}
    return {
        FROZEN: {name: tensor for name, tensor in tensors.items() if name in frozen},
        TUNED: {name: tensor for name, tensor in tensors.items() if name not in frozen},
    }


def _base(base: Checkpoint, folder: Path) -> dict[str, str]:
    """What ratchet.json says of the base: a neighbour is named as one, so that both can move."""
    is_near = base.path.resolve().parent == folder.resolve()
    path = Path("..", base.path.name) if is_near else base.path.resolve()
    return {"path": str(path), "version": base.version}


def _index(tensors: Mapping[str, torch.Tensor], frozen: Set[str]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: FROZEN if name in frozen else TUNED for name in tensors},
    }


def _link(scratch: Path, others: Sequence[Checkpoint]) -> None:
    """Put another checkpoint's file of frozen weights in the place of an equal one just written."""
    own = file_sha(scratch, FROZEN, is_own=True)
    for other in others:
        # Nobody writes to our own files; those of a user's folder may change.
        if other.path.parent == scratch.parent and other.shas.get(FROZEN) == own:
            with contextlib.suppress(OSError):  # of another file system, or one without links
                os.link(other.path / FROZEN, scratch / "linked")
                os.replace(scratch / "linked", scratch / FROZEN)
                return


def dtype_on_disk(parent: Header) -> torch.dtype:
    """bfloat16 where a policy of the user's has it; float32 for models of our own recipes, whose
    rounds are tuned to it, and for everything else."""
    said = str(parent.config.get("dtype") or parent.config.get("torch_dtype") or "")
    is_ours = "task" in parent.notes
    return torch.bfloat16 if said == "bfloat16" and not is_ours else torch.float32


def _config(
    model: LanguageModel,
    parent: Checkpoint,
    role: str,
    notes: Mapping[str, Any],
    dtype: torch.dtype,
) -> dict[str, Any]:
    """The parent's config.json with what is the model's own."""
    own = {"num_hidden_layers": model.arch.num_layers}
    dtypes = {"dtype": str(dtype).removeprefix("torch.")}
    config = dict(parent.config)
    if model.arch.vision is not None:  # what is said of the language model stands below
        config |= {"text_config": config["text_config"] | own, "vision_config": _vision(config)}
        own = {}
    elif parent.architecture.vision is not None:  # a drafter, which sees no pictures
        ties = {"tie_word_embeddings": model.arch.is_tied}
        config = config["text_config"] | ties
    config |= own | dtypes | {"architectures": [class_name(model)]}
    config.pop("torch_dtype", None)
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][: model.arch.num_layers]
    if role in CRITIC_ROLES:
        # A critic measured anew is another one, though its weights may be those of before.
        measured = json.dumps(notes, sort_keys=True, default=str).encode()
        config["ratchet_notes"] = hashlib.sha256(measured).hexdigest()[:16]
    if model.is_critic:
        config |= {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    return config


def _vision(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the pooling that is not read."""
    return config["vision_config"] | {"vision_use_head": False}


def _write(
    path: Path,
    parent: Checkpoint,
    config: Mapping[str, Any],
    notes: Mapping[str, Any],
    tensors: dict[str, torch.Tensor],
) -> None:
    """All files beside the weights, the manifest last, flushed to disk."""
    dump(path / "config.json", config)
    dump(path / "ratchet.json", notes)
    # safetensors lets only the owner read what it writes; the other files go by the umask.
    for file in path.glob("*.safetensors"):
        if file.stat().st_nlink == 1:
            file.chmod((path / "config.json").stat().st_mode & 0o777)
    for pattern in (*_COPIED, *([DEMONSTRATIONS] if notes["role"] == "policy" else [])):
        for file in sorted(parent.path.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, path / file.name)
    num_parameters = sum(tensor.numel() for tensor in tensors.values())
    facts = {"dtype": config["dtype"], "is_finite": True, "num_parameters": num_parameters}
    write_manifest(path, facts)
    flush_all(path)


def flush_all(path: Path) -> None:
    for file in path.iterdir():
        _flush(file)
    _flush(path)


def dump(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copied(checkpoint: Checkpoint, folder: Path, role: str) -> Checkpoint:
    """The same checkpoint below `folder`, so that a store does not lean on where the code lies."""
    final = folder / f"{role}-{checkpoint.version}"
    if checkpoint.adapter is not None and not Path(checkpoint.notes["base"]["path"]).is_absolute():
        _copy_base(checkpoint.whole, folder)
    if not (final.exists() and is_sound(final, checkpoint.version)):
        scratch = folder / f".writing {owner_name()} {uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copytree(checkpoint.path, scratch)
            if not (scratch / MANIFEST).is_file():
                write_manifest(scratch, {})
            flush_all(scratch)
            take_place(scratch, final)
        except OSError as error:
            what = f"the {role} checkpoint"
            raise unwritable(folder, what, error, "--checkpoints", checkpoint.num_bytes) from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return verify_checkpoint(final)


def _copy_base(base: Checkpoint, folder: Path) -> None:
    """A base beside the adapters that lean on it, under its own name."""
    final = folder / base.path.name
    if not final.exists():
        copied(base, folder, "base")
        os.replace(folder / f"base-{base.version}", final)


def take_place(scratch: Path, final: Path) -> None:
    """A flushed directory takes its name, of which a damaged one is relieved first."""
    set_aside(final)
    os.replace(scratch, final)
    _flush(final.parent)


def is_sound(path: Path, version: str) -> bool:
    """Whether a directory is whole and holds this version."""
    try:
        return verify_checkpoint(path).version == version
    except CheckpointError:
        return False


def set_aside(path: Path) -> Path | None:
    """Rename a damaged directory, so that its name is free again; where to, if there was one."""
    if not path.exists():
        return None
    damaged = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}")
    os.replace(path, damaged)
    _flush(path.parent)
    return damaged


def remove_weights(path: str, folder: Path) -> bool:
    """Delete a checkpoint's directory if it lies directly in `folder`; whether it did."""
    place = Path(path)
    if place.parent.resolve() != folder.resolve() or place.is_symlink() or not place.is_dir():
        return False
    shutil.rmtree(place)
    return True


def sweep(folder: Path) -> int:
    """Remove what killed processes of this host left half-written; returns how many."""
    left = [
        path
        for path in (folder.glob(".writing *") if folder.is_dir() else [])
        if is_gone(path.name.removeprefix(".writing ").rpartition(" ")[0])
    ]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)
