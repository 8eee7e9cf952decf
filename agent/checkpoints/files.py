"""Files of a directory that may come from a stranger: opened inside of it, regular, and bounded."""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from search.errors import CheckpointError

MIB = 2**20
MAX_BYTES = {
    "config.json": MIB,
    "generation_config.json": MIB,
    "ratchet.json": 16 * MIB,
    "manifest.json": 16 * MIB,
    "model.safetensors.index.json": 16 * MIB,
    "preprocessor_config.json": MIB,
    "tokenizer.json": 128 * MIB,
    "tokenizer_config.json": 16 * MIB,
    "special_tokens_map.json": MIB,
    "added_tokens.json": 16 * MIB,
    "adapter_config.json": MIB,
}
"""Largest sizes of JSON files; the largest vocabularies in use have some 35 MiB."""


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[int]:
    """A descriptor of a regular file of the folder, for as long as the block.

    A link is followed only to where `link_target` lets it lead, and no further. Raises
    CheckpointError for anything else, and for a file that is not there.
    """
    file = folder / name
    try:
        place = link_target(folder, file) if file.is_symlink() else file
        # O_NONBLOCK: a pipe that nobody writes to must not keep us.
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} cannot be opened: {getattr(error, 'strerror', None) or error}",
            "copy or download the checkpoint again",
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CheckpointError(f"{file} is no regular file", "copy the checkpoint again")
        yield handle
    finally:
        os.close(handle)


def link_target(folder: Path, file: Path) -> Path:
    """Where a link leads, followed to its end: a file of the folder, or of the `blobs` that the
    hub's cache keeps beside its snapshots. Raises CheckpointError for any other."""
    try:
        target, inside = file.resolve(strict=True), folder.resolve()
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{file.name} in {folder} is a link that leads nowhere or to itself",
            "copy the file into the directory",
        ) from error
    if inside not in target.parents and target.parent != inside.parent.parent / "blobs":
        raise CheckpointError(
            f"{file.name} in {folder} is a link that leaves the directory",
            "copy the file into the directory",
        )
    return target


def read_bytes(folder: Path, name: str) -> bytes:
    """All of a small file. Raises CheckpointError for one that is larger than such files are."""
    most = MAX_BYTES[name]
    with opened(folder, name) as handle, open(handle, "rb", closefd=False) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise CheckpointError(
            f"{folder / name} has more than {most:,} bytes", "give a plain checkpoint"
        )
    return data


def parse_json(data: bytes, where: Path | str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else, NaN and deep nesting included."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply", "give a plain checkpoint") from None
    except ValueError as error:
        raise CheckpointError(
            f"{where} is not JSON: {error}", "download it again, or save it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{where} is not a JSON object", "download it again, or save it again"
        )
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object of the folder."""
    return parse_json(read_bytes(folder, name), folder / name)
