"""Whether two checkouts of the code give the same results: one seeded small run each, compared.

Both run `python -m agent improve` with the same settings, inline, into a SQLite store of their own.
Every table is then compared row by row: ids, digests, texts, visits, verdicts, versions of weights.
Left out are clocks, places on disk, process numbers and the code's own version. How many files each
side hashed to verify its checkpoints stands below the tables.

    git worktree add /tmp/before v0.5.0
    python -m scripts.bench.same_results /tmp/before .
"""

import argparse
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "problems_per_round": 24,
    "num_seeds": 40,
    "search.simulations": 6,
    "hosting.hosting": "inline",
    "hosting.cohort": 24,
    "hosting.speculation": "never",
    "critics.num_labelled": 24,
    "critics.samples": 3,
    "critics.steps": 6,
    "training.num_steps": 12,
    "training.drafter_steps": 4,
    "evaluation.num_problems": 40,
    "evaluation.num_search_problems": 8,
}
# One cohort: several commit side by side, and numbers of rows are given in the order of commits.
VOLATILE = (
    *("seconds", "ts", "path", "store", "checkpoints", "code_version"),
    *("timings", "owner", "fence", "pid"),
)
"""Columns and JSON keys that differ between two runs of the same code."""
Tables = dict[str, list[dict[str, Any]]]
COUNTER = """
import hashlib, os
hash_file = hashlib.file_digest
def counted(stream, *rest, **more):
    with open(os.environ["HASHED_LOG"], "a") as log:
        log.write(f"{os.fstat(stream.fileno()).st_size} {stream.name}\\n")
    return hash_file(stream, *rest, **more)
hashlib.file_digest = counted
"""
"""A sitecustomize.py that notes each file whose digest is taken."""
LEFT_OUT = ("alembic_version", "actors", "speculation", "sqlite_sequence")


def is_volatile(name: str) -> bool:
    return name in VOLATILE or name.endswith(("_ts", "_s", "_ms"))


def improve(code: Path, folder: Path, more: list[str], failpoint: str = "") -> int:
    """`ratchet improve` of a checkout, its store and weights below `folder`; the exit status."""
    settings = SETTINGS | {
        "store": f"sqlite:///{folder}/store.db",
        "checkpoints": f"{folder}/checkpoints",
    }
    given = [*(f"{key}={value}" for key, value in settings.items()), *more]
    flags = [part for text in given for part in ("--set", text)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
    (folder / "hook").mkdir(parents=True, exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(COUNTER)
    environment |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{folder / 'hook'}{os.pathsep}{code.resolve()}",
        "HASHED_LOG": str(folder / "hashed.log"),
    }
    if failpoint:
        environment["RATCHET_FAILPOINT"] = failpoint
    command = [sys.executable, "-m", "agent", "improve", "--json", *flags]
    done = subprocess.run(command, cwd=code, env=environment, stdout=subprocess.DEVNULL)
    return done.returncode


def run_rounds(code: Path, folder: Path, rounds: int, more: list[str]) -> None:
    for number in range(1, rounds + 1):
        if status := improve(code, folder, more):
            raise SystemExit(f"round {number} of {code} ended with {status}")


def stable(value: Any) -> Any:
    """A cell without what two runs of the same code differ in."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return stable(json.loads(value))
        except ValueError:
            return value
    if isinstance(value, dict):
        return {k: stable(v) for k, v in sorted(value.items()) if not is_volatile(k)}
    if isinstance(value, list):
        return [stable(v) for v in value]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return value


def tables(path: Path) -> Tables:
    """All rows of a store by table, in the order of their keys."""
    with sqlite3.connect(path) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name not in LEFT_OUT
        ]
        found: Tables = {}
        for name in sorted(names):
            cursor = connection.execute(f"SELECT * FROM {name}")
            columns = [c[0] for c in cursor.description]
            rows = [
                {c: stable(v) for c, v in zip(columns, row, strict=True) if not is_volatile(c)}
                for row in cursor
            ]
            found[name] = sorted(rows, key=lambda row: json.dumps(row, default=str))
        return found


def shared(
    old: list[dict[str, Any]], new: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Both sides' rows in the columns that both have, and the other columns."""
    if not old or not new:
        return old, new, []
    both = old[0].keys() & new[0].keys()
    kept = [[{k: row[k] for k in row if k in both} for row in rows] for rows in (old, new)]
    return kept[0], kept[1], sorted(old[0].keys() ^ new[0].keys())


def hashed(log: Path) -> str:
    """How many files were hashed, and how many times the one hashed most often."""
    lines = log.read_text().splitlines() if log.is_file() else []
    times = Counter(line.partition(" ")[2] for line in lines)
    num_bytes = sum(int(line.partition(" ")[0]) for line in lines)
    most = max(times.values(), default=0)
    return (
        f"{len(lines)} hashes of {len(times)} files, one file at most {most} times, "
        f"{num_bytes / 2**20:.0f} MiB read"
    )


def digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:12]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", dest="more", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--show", type=int, default=3, help="differing rows shown of each table")
    parser.add_argument("--keep", type=Path, help="folder to keep both stores in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.keep or Path(scratch)).absolute()
        found, counts = [], []
        for side, code in (("before", arguments.before), ("after", arguments.after)):
            place = folder / side
            if not (place / "store.db").exists():
                place.mkdir(parents=True, exist_ok=True)
                run_rounds(code, place, arguments.rounds, arguments.more)
            found.append(tables(place / "store.db"))
            counts.append(f"{side}: {hashed(place / 'hashed.log')}")
    before, after = found
    num_different = compared(before, after, arguments.show)
    print(*counts, sep="\n")
    print("the same" if not num_different else f"{num_different} rows differ")
    raise SystemExit(bool(num_different))


def compared(before: Tables, after: Tables, num_shown: int = 3) -> int:
    """Print a line a table, and the first rows that differ; how many do."""
    num_different = 0
    print(f"{'table':<22}{'rows':>8}{'rows after':>12}{'different':>11}  digest before, after")
    for name in sorted(before.keys() | after.keys()):
        old, new, added = shared(before.get(name, []), after.get(name, []))
        if added:
            print(f"{name}: compared without the columns {', '.join(added)}, which one side lacks")
        texts = [{json.dumps(r, default=str) for r in rows} for rows in (old, new)]
        only = [sorted(texts[0] - texts[1]), sorted(texts[1] - texts[0])]
        num = max(map(len, only))
        num_different += num
        print(f"{name:<22}{len(old):>8}{len(new):>12}{num:>11}  {digest(old)} {digest(new)}")
        for sign, rows in zip("-+", only, strict=True):
            for row in rows[:num_shown]:
                print(f"  {sign} {row[:400]}")
    return num_different


if __name__ == "__main__":
    main()
