"""Named places where a test may kill the process: RATCHET_FAILPOINT=name:count, else no effect."""

import os
import signal

POINTS = (
    "after-imagining",
    "after-claim",
    "after-journal",
    "before-search-commit",
    "after-search-commit",
    "after-drain",
    "after-searching",
    "after-selecting",
    "while-training",
    "after-policy",
    "after-training",
    "after-evaluation",
    "before-verdict",
    "after-verdict",
)

_left: dict[str, int] = {}


def hit(name: str) -> None:
    """SIGKILL this process at the count-th visit of the point that the environment names."""
    wanted, _, count = os.environ.get("RATCHET_FAILPOINT", "").partition(":")
    if wanted != name:
        return
    _left[name] = _left.get(name, int(count or 1)) - 1
    if _left[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
