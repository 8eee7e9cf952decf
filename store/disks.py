"""Disks that are full, read-only or closed to us: one way to say so, with place and bytes."""

import errno
import shutil
from pathlib import Path

from search.errors import ResourceError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def free_bytes(path: Path) -> int:
    """Of the file system that a path is or would be on; 0 where nobody says."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0


def unwritable(
    path: Path, what: str, error: Exception, flag: str = "", num_bytes: int = 0
) -> ResourceError:
    """What to say of something that could not be written.

    Args:
        path: where it should have gone.
        what: it, for people.
        error: what the system or a library said.
        flag: the option that chooses another place; empty where there is none.
        num_bytes: how much was to be written; 0 where that is not known.
    """
    number = getattr(error, "errno", None)
    cause = getattr(error, "strerror", None) or str(error)
    other = f", or choose another {flag}" if flag else ""
    if number in CLOSED:
        return ResourceError(
            f"cannot write {what} to {path}: {cause}", f"change its permissions{other}"
        )
    wanted = f"{num_bytes:,} bytes are wanted, " if num_bytes else ""
    return ResourceError(
        f"cannot write {what} to {path}: {cause} ({wanted}{free_bytes(path):,} are free)",
        f"free some space{other}, and run the same command again",
    )
