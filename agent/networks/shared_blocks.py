"""Blocks of equal weights are held once, whichever models they belong to.

A critic keeps most of its policy's blocks, a drafter its first half. Within a process the very same
tensors serve all of them. Processes of one machine map them from files of a common folder, which
the system holds in memory once however many read them.
"""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

L = TypeVar("L", bound="DataclassInstance")
"""A dataclass of tensors and None, to which weak references can be made."""
TRANSPOSED = " transposed"


class SharedBlocks:
    """By the digest of their weights, for as long as somebody uses them."""

    def __init__(self, folder: Path | None = None) -> None:
        """Without a folder blocks are shared within this process alone."""
        self.folder = folder
        self._alive: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._named: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def get(
        self,
        kind: type[L],
        weights: Sequence[Tensor],
        layout: str,
        make: Callable[[], L],
        name: str = "",
    ) -> L:
        """What `make` gives of these weights, made once; `layout` tells layouts apart.

        Weights of the same name, where one is known, are taken to be the same without a look. In a
        GPU's memory that is all that is known of them: they are not read back to be compared.
        """
        said = f"{kind.__name__} {layout}"
        found: L | None = self._named.get(f"{said} {name}") if name else None
        if found is None:
            is_compared = all(weight.device.type == "cpu" for weight in weights)
            found = self._by_digest(kind, weights, said, make) if is_compared else make()
            if name:
                self._named[f"{said} {name}"] = found
        return found

    def _by_digest(
        self, kind: type[L], weights: Sequence[Tensor], said: str, make: Callable[[], L]
    ) -> L:
        key = _digest(said, weights)
        found: L | None = self._alive.get(key)
        if found is None:
            found = make() if self.folder is None else self._mapped(self.folder, key, kind, make)
            self._alive[key] = found
        return found

    def _mapped(self, folder: Path, key: str, kind: type[L], make: Callable[[], L]) -> L:
        """From the folder's file, written first where nobody did. A folder that cannot be written
        to, or is another machine's, leaves the process with a copy of its own."""
        file = folder / f"{key}.safetensors"
        if not file.exists():
            made = make()
            try:
                _write(file, made)
            except (OSError, SafetensorError):
                return made
        try:
            return _read(file, kind)
        except (OSError, SafetensorError):
            return make()


def clear(folder: Path) -> None:
    """Remove the files of a folder; who has mapped them keeps them, and others make them again."""
    for file in folder.glob("*.safetensors"):
        file.unlink(missing_ok=True)


def _digest(said: str, weights: Iterable[Tensor]) -> str:
    digest = hashlib.sha256(said.encode())
    for weight in weights:
        digest.update(f"{weight.dtype} {tuple(weight.shape)}".encode())
        flat = weight.detach().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(file: Path, block: "DataclassInstance") -> None:
    """Whole or not at all; of several processes that write at once the first one's file stays."""
    tensors = {}
    for field in fields(block):
        value = getattr(block, field.name)
        if value is not None:
            is_plain = value.is_contiguous()
            name = field.name + ("" if is_plain else TRANSPOSED)
            tensors[name] = (value if is_plain else value.t()).contiguous()
    scratch = file.with_name(f".{uuid.uuid4().hex}")
    try:
        save_file(tensors, scratch)
        with contextlib.suppress(FileExistsError):
            os.link(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def _read(file: Path, kind: type[L]) -> L:
    """Tensors mapped from the file: it may be removed meanwhile, and nobody writes to it."""
    found: dict[str, Tensor | None] = {field.name: None for field in fields(kind)}
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            tensor = opened.get_tensor(name)
            plain = name.removesuffix(TRANSPOSED)
            found[plain] = tensor if plain == name else tensor.t()
    return kind(**found)
