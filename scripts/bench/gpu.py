"""One GPU, one call: whether everything is right on it, then how fast, against what one could use.

    python -m scripts.bench.gpu --out gpu.jsonl --json gpu.json   # under eight minutes
    python -m scripts.bench.gpu --part decoding --quick           # one part, one shape

Parts, in order of worth: numerics, decoding, kernels, training. Each runs in a process of its own
with a time limit, and its rows are written to --out as they come, so that an interrupted or crashed
run keeps what it has. Needs torch, triton and transformers; a part for which something else is
missing says so in a row. Without a GPU nothing is timed: tiny shapes, Triton's interpreter.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scripts.bench.on_gpu.device import IS_GPU

import torch  # isort: skip

from scripts.bench.report import Row, missing, show, write  # isort: skip

PARTS = {"numerics": 90, "decoding": 150, "kernels": 120, "training": 100}
"""Seconds that each may take."""


def one_part(name: str, is_quick: bool, out: Path | None) -> None:
    part = importlib.import_module(f"scripts.bench.on_gpu.{name}")
    for row in part.measured(is_quick):
        show(row)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"part": name} | row) + "\n")


def apart(name: str, is_quick: bool, out: Path) -> list[Row]:
    """The rows of a part that runs in a process of its own."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "scripts.bench.gpu", "--part", name, "--out", str(out)]
    # A group of its own, so that what the part has started ends with it.
    part = subprocess.Popen([*command, *(["--quick"] if is_quick else [])], start_new_session=True)
    try:
        code = part.wait(PARTS[name] if IS_GPU else None)
        why = f"ended with {code}" if code else ""
    except subprocess.TimeoutExpired:
        os.killpg(part.pid, signal.SIGKILL)
        part.wait()
        why = f"stopped after {PARTS[name]} s"
    print(f"-- {name}: {time.perf_counter() - start:.0f} s {why}", flush=True)
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    rows = [row for row in map(json.loads, lines) if row["part"] == name]
    return [*rows, missing(f"{name}_rest", why)] if why else rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=list(PARTS), help="this one alone, in this process")
    parser.add_argument("--quick", action="store_true", help="one shape of each")
    parser.add_argument("--out", type=Path, help="rows as they come, a line each")
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    given = parser.parse_args()
    if given.part:
        one_part(given.part, given.quick, given.out)
        return
    print(torch.cuda.get_device_name() if IS_GPU else "no GPU: interpreter, tiny shapes, no times")
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "rows.jsonl"
        out.unlink(missing_ok=True)
        rows = [row for name in PARTS for row in apart(name, given.quick, out)]
    write(given.json, "gpu", {"torch": torch.__version__, "quick": given.quick}, [], rows)
    failed = [row for row in rows if row.get("unit") == "failed" and row["value"]]
    unfinished = [row for row in rows if row["name"] in {f"{name}_rest" for name in PARTS}]
    sys.exit(1 if failed or unfinished else 0)


if __name__ == "__main__":
    main()
