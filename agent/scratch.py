"""Folders of a process's own in the system's temporary place; what killed ones left is swept."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from store.leases import is_gone, owner_name

PREFIX = "ratchet-"


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A new folder that only this user may enter, gone after the block.

    Its name says who made it: the next folder made on this host removes those of processes that are
    no longer alive.
    """
    place = Path(tempfile.gettempdir())
    sweep_scratch(place)
    folder = place / f"{PREFIX}{kind} {owner_name()} {uuid.uuid4().hex}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch(place: Path) -> int:
    """Remove what dead processes of this user and host left; returns how many folders."""
    left = [path for path in place.glob(f"{PREFIX}* * * * *") if _is_left(path)]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _is_left(path: Path) -> bool:
    owner = path.name.partition(" ")[2].rpartition(" ")[0]
    try:
        is_ours = path.lstat().st_uid == os.getuid() and not path.is_symlink()
    except OSError:  # another process swept it
        return False
    return is_ours and is_gone(owner)
