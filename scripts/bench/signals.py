"""Signals at every stage of `ratchet improve`: how it ends, how fast, and what is left behind.

    python -m scripts.bench.signals --hosting inline ray --signals TERM INT --json out.json

A command of its own is begun for each row, brought to the stage that its progress names, and sent
the signal. Rows say the exit code, the seconds until it ended, the processes that were still there
three seconds later, whether the message was said, whether a traceback or an abort was, and whether
the same command goes on at once. `twice` sends a second signal after 0.3 s.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

STAGES = ("import", "starting", "searching", "labelling", "training", "evaluating")
SMALL = [
    *("problems_per_round=60", "search.simulations=8", "training.num_steps=200"),
    *("critics.num_labelled=40", "critics.steps=40", "evaluation.num_problems=400"),
    *("evaluation.num_search_problems=200", "training.drafter_steps=5"),
]
MARK = "SIGNALS_BENCH"
GONE_AFTER_S = 3.0
PATIENCE_S = 240.0


def command(folder: Path, hosting: str) -> list[str]:
    sets = [part for text in SMALL for part in ("--set", text)]
    places = ["--store", f"sqlite:///{folder}/s.db", "--checkpoints", str(folder / "checkpoints")]
    return [sys.executable, "-m", "agent", "improve", "--hosting", hosting, *places, *sets]


def _listening() -> None:
    """A hang-up that whoever started us ignores (nohup) would stay ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def left(mark: str) -> list[int]:
    """Processes that were begun by a command with this mark."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            try:
                if f"{MARK}={mark}".encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def one(hosting: str, stage: str, number: signal.Signals, is_twice: bool) -> dict[str, Any]:
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = subprocess.Popen(
            command(folder, hosting),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {MARK: mark, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            preexec_fn=_listening,
        )
        said: list[str] = []
        assert process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(process.stderr,), daemon=True)
        reader.start()
        is_there = _wait_for(folder, stage, said, process)
        began = time.monotonic()
        process.send_signal(number)
        if is_twice:
            time.sleep(0.3)
            process.send_signal(number)
        try:
            code: int | str = process.wait(60)
        except subprocess.TimeoutExpired:
            code = "hangs"
            process.kill()
        seconds = time.monotonic() - began
        time.sleep(GONE_AFTER_S)
        reader.join(5)
        text = "".join(said)
        row = {
            "hosting": hosting,
            "stage": stage if is_there else f"{stage} (over before it)",
            "signal": number.name + (" twice" if is_twice else ""),
            "exit": code,
            "seconds": round(seconds, 1),
            "left": len(left(mark)),
            "said": "Stopped;" in text,
            "trace": "Traceback" in text or "C++" in text or "SystemError" in text,
            "scratch": len([*folder.glob("**/.writing*")]),
            "goes_on": _goes_on(folder, hosting) if stage in ("searching", "training") else None,
        }
        for pid in left(mark):
            os.kill(pid, signal.SIGKILL)
    return row


def _wait_for(folder: Path, stage: str, said: list[str], process: "subprocess.Popen[str]") -> bool:
    """Until the command is at a stage; whether it came there."""
    if stage == "import":
        time.sleep(0.2)
        return process.poll() is None
    if stage == "starting":
        time.sleep(3.0)
        return process.poll() is None
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        if _stage_of(folder, said) == stage:
            time.sleep(0.5)
            return process.poll() is None
        time.sleep(0.05)
    return False


def _stage_of(folder: Path, said: list[str]) -> str:
    """By the store and, inside of the training stage, by what was said to be over."""
    import sqlite3

    try:
        connection = sqlite3.connect(f"file:{folder}/s.db?mode=ro", uri=True, timeout=1)
        (stage,) = connection.execute("SELECT stage FROM rounds ORDER BY id DESC").fetchone()
        connection.close()
    except (sqlite3.Error, TypeError):
        return ""
    is_labelled = any(line.startswith("labelling") for line in said)
    return "labelling" if stage == "training" and not is_labelled else str(stage)


def _goes_on(folder: Path, hosting: str) -> bool:
    """Whether the lease was given back and the store is whole: the next command begins at once."""
    status = [sys.executable, "-m", "agent", "status", "--store", f"sqlite:///{folder}/s.db"]
    told = subprocess.run([*status, "--json"], capture_output=True, text=True)
    check = [sys.executable, "-m", "agent", "store", "check", "--store", f"sqlite:///{folder}/s.db"]
    is_whole = subprocess.run(check, capture_output=True).returncode == 0
    return is_whole and json.loads(told.stdout)["worked_on_by"] is None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosting", nargs="+", default=["inline", "ray"])
    parser.add_argument("--stages", nargs="+", default=list(STAGES))
    parser.add_argument("--signals", nargs="+", default=["TERM", "INT"])
    parser.add_argument("--twice", action="store_true", help="also two signals while searching")
    parser.add_argument("--json", default="", help="file of the rows")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    asked = [
        (hosting, stage, name, False)
        for hosting in given.hosting
        for stage in given.stages
        for name in given.signals
    ]
    asked += [(h, "searching", "TERM", True) for h in given.hosting if given.twice]
    for hosting, stage, name, is_twice in asked:
        row = one(hosting, stage, signal.Signals[f"SIG{name}"], is_twice)
        rows.append(row)
        print("\t".join(map(str, row.values())) if len(rows) > 1 else _head(row), flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(rows, indent=2) + "\n")


def _head(row: dict[str, Any]) -> str:
    return "\t".join(row) + "\n" + "\t".join(map(str, row.values()))


if __name__ == "__main__":
    main()
