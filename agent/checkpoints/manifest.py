"""What a published checkpoint consists of, written last: a reader sees all of it or knows better.

`manifest.json` names every file with its size and SHA-256, and what was true of the weights when
they were written. A directory that has one is compared with it before anything is loaded.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.checkpoints.files import opened, read_json
from search.errors import CheckpointError

MANIFEST = "manifest.json"


Identity = tuple[int, int, int, int, int]
"""Device, number, size, and times of the last writing and of the last change of any kind."""
_known: dict[Identity, str] = {}
"""SHA-256 of files that this process hashed, by what changes when a file is written to."""
RACY_NS = 20_000_000
"""A file that changed this recently may change again within one tick of the file system's clock."""


def identity_of(handle: int) -> Identity:
    """What changes when an opened file is written to."""
    seen = os.fstat(handle)
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def sha_of(handle: int, is_own: bool = False) -> str:
    """SHA-256 of an opened file, computed once a process for as long as the file stays as it is.

    `is_own` says that nobody else writes to the file: it was just made by this process.
    """
    identity = identity_of(handle)
    if identity not in _known:
        found = digest_of(handle)
        if not is_own and time.time_ns() - identity[-1] < RACY_NS:
            return found
        _known[identity] = found
    return _known[identity]


def file_sha(folder: Path, name: str, is_own: bool = False) -> str:
    """SHA-256 of a folder's file, as `sha_of`."""
    with opened(folder, name) as handle:
        return sha_of(handle, is_own)


def digest_of(handle: int) -> str:
    """SHA-256 of an opened file's bytes, read now."""
    with open(handle, "rb", closefd=False) as stream:
        stream.seek(0)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(path: Path, facts: Mapping[str, Any]) -> None:
    """List all files of a directory, with `facts` of the weights (dtype, parameters, finite).

    The caller made the directory, and nobody else writes to it.
    """
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": file_sha(path, file.name, is_own=True)}
        for file in sorted(path.iterdir())
        if file.is_file() and file.name != MANIFEST
    }
    text = json.dumps({"files": files} | dict(facts), indent=2, sort_keys=True)
    (path / MANIFEST).write_text(text + "\n", encoding="utf-8")
    file_sha(path, MANIFEST, is_own=True)


def verified_files(path: Path) -> dict[str, str]:
    """SHA-256 by name of all files in the manifest; empty for a directory that has none.

    Raises CheckpointError when a file is missing, or has another size or content, than written.
    """
    found: dict[str, str] = {}
    for name, (size, sha) in _listed(path).items():
        file = path / name
        if "/" in name or not file.is_file():
            raise _damaged(path, f"{name} is missing")
        if file.stat().st_size != size:
            raise _damaged(path, f"{name} has {file.stat().st_size:,} bytes, not {size:,}")
        found[name] = file_sha(path, name)
        if found[name] != sha:
            raise _damaged(path, f"{name} is not what was written")
    return found


def _listed(path: Path) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by name; empty without a manifest, or with one that is not ours."""
    if not (path / MANIFEST).is_file():
        return {}
    try:
        document = read_json(path, MANIFEST)
        if "files" not in document:
            return {}  # another program's; our own is known by its digest in the store
        return {
            str(name): (int(seen["bytes"]), str(seen["sha256"]))
            for name, seen in document["files"].items()
        }
    except (CheckpointError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"{MANIFEST} cannot be read") from error


def _damaged(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {path} is damaged: {cause}",
        "copy it again from where it is whole; rounds go on with its parent",
    )
