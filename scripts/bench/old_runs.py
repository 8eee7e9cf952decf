"""Whether a run that an older version began is finished by this one, to the same end.

The older checkout makes a round and is killed in the middle of the next one. Then, from copies of
what it left, both versions finish that round: the older one as it would have, this one after
`ratchet store migrate`. All tables are compared row by row, and the store's invariants checked.

    git worktree add /tmp/before v0.5.0
    python -m scripts.bench.old_runs /tmp/before
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts.bench.same_results import compared, improve, tables

HERE = Path(__file__).resolve().parent.parent.parent
POINTS = ("after-journal:4", "after-searching", "while-training", "after-training")
"""Where the older version is killed in its second round."""


def ratchet(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "agent", *arguments], cwd=HERE, check=True)


def finished(old: Path, folder: Path, point: str) -> int:
    """Rows in which the two ends differ."""
    begun = folder / "begun"
    begun.mkdir()
    # One place on disk for all: the store holds absolute paths.
    place = folder / "run"
    if status := improve(old, place, []):
        raise SystemExit(f"the older version ended with {status}")
    if (status := improve(old, place, [], point)) != -signal.SIGKILL:
        raise SystemExit(f"the older version was not killed at {point}: {status}")
    shutil.copytree(place, begun, dirs_exist_ok=True)
    ends = []
    for code in (old, HERE):
        shutil.rmtree(place)
        shutil.copytree(begun, place)
        if code == HERE:
            ratchet("store", "migrate", "--store", f"sqlite:///{place}/store.db")
        if status := improve(code, place, []):
            raise SystemExit(f"{code} ended with {status}")
        ends.append(tables(place / "store.db"))
    ratchet("store", "check", "--store", f"sqlite:///{place}/store.db")
    return compared(ends[0], ends[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout of the older version")
    parser.add_argument("--point", action="append", choices=POINTS, help="default: all")
    arguments = parser.parse_args()
    total = 0
    for point in arguments.point or POINTS:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"killed at {point}:")
            total += finished(arguments.old.resolve(), Path(scratch), point)
    print("the same" if not total else f"{total} rows differ")
    raise SystemExit(bool(total))


if __name__ == "__main__":
    main()
