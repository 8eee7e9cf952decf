"""Disks that fill up, or are read-only, under each thing that is written; and going on afterwards.

    python -m scripts.bench.disks --hosting inline ray --json out.json

Small file systems are mounted for it, which needs root. A row says the exit code, whether the
message names the place and the bytes, whether a traceback was printed, what half-written things
were left, and whether the same command ends well once there is room.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.bench.signals import SMALL

MIB = 260
PATIENCE_S = 300.0


@contextlib.contextmanager
def disk(folder: Path, size_mib: int = MIB) -> Iterator[Path]:
    """A file system of its own, mounted at a folder."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def filled(folder: Path, left: int) -> Path:
    """A file that leaves so many bytes on its disk."""
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - left))
    return ballast


def remounted(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "agent", *words]


def improving(store: Path, checkpoints: Path, hosting: str) -> list[str]:
    sets = [part for text in SMALL for part in ("--set", text)]
    places = ["--store", f"sqlite:///{store}/s.db", "--checkpoints", str(checkpoints)]
    return command("improve", "--hosting", hosting, *places, *sets)


def at_stage(store: Path, stage: str, process: "subprocess.Popen[str]") -> None:
    import sqlite3

    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(sqlite3.Error, TypeError):
            connection = sqlite3.connect(f"file:{store}/s.db?mode=ro", uri=True, timeout=1)
            (found,) = connection.execute("SELECT stage FROM rounds ORDER BY id DESC").fetchone()
            connection.close()
            if found == stage:
                return
        time.sleep(0.05)


def row(what: str, code: int, said: str, place: Path, left: list[Path], again: int | None) -> Any:
    return {
        "what": what,
        "exit": code,
        "names_place": str(place) in said,
        "names_bytes": "are free" in said or "bytes" in said,
        "trace": "Traceback" in said or "not foreseen" in said,
        "left": [p.name for p in left],
        "again": again,
    }


def in_a_round(folder: Path, what: str, stage: str, hosting: str, how: str) -> Any:
    """The disk of the store or of the checkpoints goes while a round is at a stage."""
    name = f"{what}-{stage}-{hosting}-{how}"
    with disk(folder / name / "small") as small:
        other = folder / name / "large"
        other.mkdir()
        store, checkpoints = (small, other) if what == "store" else (other, small)
        line = improving(store, checkpoints, hosting)
        process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, stdout=subprocess.PIPE)
        at_stage(store, stage, process)
        # A round writes no checkpoint before its training ends.
        ballast = filled(small, 300_000) if how == "full" else None
        if how != "full":
            remounted(small, "ro")
        _, said = process.communicate(timeout=PATIENCE_S)
        left = [*small.glob(".writing*")]
        if ballast is not None:
            ballast.unlink()
        else:
            remounted(small, "rw")
        again = subprocess.run(line, capture_output=True, text=True).returncode
        return row(
            f"{how}: {what}, {stage}, {hosting}", process.returncode, said, small, left, again
        )


def of_a_command(folder: Path, store: Path, kind: str, how: str) -> Any:
    """One file that a command writes."""
    with disk(folder / f"{kind}-{how}" / "small", 4) as small:
        out = {
            "export": ["store", "export", "sft", "--out", str(small / "o.jsonl")],
            "plot": ["inspect", "plot", "--out", str(small / "o.png")],
            "init": ["store", "init"],
        }[kind]
        place = f"sqlite:///{small}/n.db" if kind == "init" else f"sqlite:///{store}/s.db"
        line = command(*out, "--store", place)
        if how == "full":
            ballast = filled(small, 0)
        else:
            remounted(small, "ro")
        first = subprocess.run(line, capture_output=True, text=True)
        left = [p for p in small.iterdir() if p.name != "ballast"]
        if how == "full":
            ballast.unlink()
        else:
            remounted(small, "rw")
        again = subprocess.run(line, capture_output=True, text=True).returncode
        return row(f"{how}: {kind}", first.returncode, first.stderr, small, left, again)


def to_standard_output(store: Path) -> Any:
    line = command("inspect", "searches", "--store", f"sqlite:///{store}/s.db")
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    named = done.stderr.replace("standard output", str(store))
    return row("full: standard output", done.returncode, named, store, [], None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosting", nargs="+", default=["inline", "ray"])
    parser.add_argument("--json", default="", help="file of the rows")
    given = parser.parse_args()
    if os.geteuid():
        raise SystemExit("mounting small file systems needs root")
    rows: list[Any] = []

    def add(found: Any) -> None:
        if not rows:
            print("\t".join(found), flush=True)
        rows.append(found)
        print("\t".join(map(str, found.values())), flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(rows, indent=2) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = folder / "whole"
        whole.mkdir()
        subprocess.run(
            improving(whole, whole / "checkpoints", "inline"), check=True, capture_output=True
        )
        for kind in ("export", "plot", "init"):
            for how in ("full", "read-only"):
                add(of_a_command(folder, whole, kind, how))
        add(to_standard_output(whole))
        for hosting in given.hosting:
            add(in_a_round(folder, "checkpoints", "training", hosting, "full"))
            add(in_a_round(folder, "checkpoints", "training", hosting, "read-only"))
            add(in_a_round(folder, "store", "searching", hosting, "full"))


if __name__ == "__main__":
    main()
