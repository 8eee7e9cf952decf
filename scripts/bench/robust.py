"""Forged checkpoints and plain wrong input, a command of its own each: code, seconds, memory.

    python -m scripts.bench.robust --json out.json

A forged checkpoint is the embedded policy with one thing changed. `torch` says whether torch was
imported before it was refused. The first row is the baseline: the policy as it is.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from agent.checkpoints.embedded import EMBEDDED

SECRET = "c4n4ry-p4ssw0rd"
QUESTION = ["solve", "1+2*3-4"]
Change = Callable[[Path], None]


def config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def text(name: str, content: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_text(content)

    return change


def header(folder: Path, **values: Any) -> None:
    """One tensor's entry in the safetensors header, as given."""
    file = folder / "model.safetensors"
    raw = file.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    found = json.loads(raw[8:end])
    found["model.norm.weight"] |= values
    new = json.dumps(found).encode()
    file.write_bytes(len(new).to_bytes(8, "little") + new + raw[end:])


def float8(folder: Path) -> None:
    entry = {"dtype": "F8_E4M3", "shape": [128], "data_offsets": [0, 128]}
    new = json.dumps({"model.norm.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(len(new).to_bytes(8, "little") + new + bytes(128))


def long_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write((100 * 2**20).to_bytes(8, "little") + b"{")
        blanks(file, 100 * 2**20 - 2)
        file.write(b"}")


def long_config(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        blanks(file, 50_000_000)


def blanks(file: IO[bytes], num: int) -> None:
    """In parts: what this process has held counts as its children's most memory, too."""
    for _ in range(num // 2**16 + 1):
        file.write(b" " * min(num, 2**16))
        num -= 2**16


def many_tensors(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    new = ("{" + ",".join(f'"t{i}":{json.dumps(entry)}' for i in range(100_001)) + "}").encode()
    (folder / "model.safetensors").write_bytes(len(new).to_bytes(8, "little") + new)


def self_link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")


def outside_link(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/etc/passwd")


def pipe(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    os.mkfifo(folder / "tokenizer_config.json")


FORGED: dict[str, Change] = {
    "max_position_embeddings 10^9": config(max_position_embeddings=10**9),
    "hidden_size 10^6": config(hidden_size=10**6),
    "num_hidden_layers 10^6": config(num_hidden_layers=10**6),
    "vocab_size -5": config(vocab_size=-5),
    "linear scaling without factor": config(rope_parameters={"rope_type": "linear"}),
    "rope_theta NaN": config(rope_parameters={"rope_theta": float("nan")}),
    "eos_token_id 10^6": config(eos_token_id=10**6),
    "a key that nobody knows": config(_attn_implementation_internal="x/y"),
    "auto_map": config(auto_map={"AutoModel": "evil.Evil"}),
    "generation_config cut off": text("generation_config.json", '{"eos_tok'),
    "config nested 100,000 deep": text("config.json", '{"a":' * 100_000),
    "config of 50 MB": long_config,
    "tokenizer_config nested": text("tokenizer_config.json", "[" * 100_000),
    "float8 weights": float8,
    "header of 100 MB": long_header,
    "header of 100,001 tensors": many_tensors,
    "dtype lie": lambda folder: header(folder, dtype="F64"),
    "overlapping offsets": lambda folder: header(folder, data_offsets=[0, 4]),
    "weights a link to itself": self_link,
    "tokenizer a link to /etc/passwd": outside_link,
    "tokenizer_config a pipe": pipe,
}
WRONG: dict[str, tuple[list[str], set[int]]] = {
    "3,000 brackets": ([*QUESTION, "--set", "problems=" + "[" * 3_000], {2}),
    "a number of 400 digits": (["config", "show", "--set", "search.simulations=" + "9" * 400], {2}),
    "a config name of 5,000": (["config", "show", "--config", "x" * 5_000], {2}),
    "nobody's home": ([*QUESTION, "--policy", "~nosuchuser/x"], {2}),
    "--after 2^63": (["inspect", "tree", "1", "--after", str(2**63)], {2}),
    "aiosqlite": (["status", "--store", "sqlite+aiosqlite:///x.db"], {2}),
    "an unknown URL key": (
        ["inspect", "rounds", "--store", "sqlite:///s.db?mode=rw&uri=true"],
        {2},
    ),
    "endless held-out": (
        ["improve", "--dry-run", "--set", "evaluation.num_problems=99999999999999"],
        {2},
    ),
    "--timeout inf": (["inspect", "sql", "SELECT 1", "--timeout", "inf"], {2}),
    "--timeout nan": (["inspect", "sql", "SELECT 1", "--timeout", "nan"], {2}),
    "10,000 blanks": (
        ["improve", "--dry-run", "--task", "jsonl", "--problems", "blanks.jsonl"],
        {2},
    ),
    "somebody else's database": (["inspect", "rounds", "--store", "sqlite:///foreign.db"], {7}),
    "a store on a server that is not there": (
        ["status", "--store", f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/d"],
        {7},
    ),
}
SHELL: dict[str, tuple[str, set[int]]] = {
    "not UTF-8": ("%s status --run $'\\xff'", {2}),
    "> /dev/full": ("%s config show > /dev/full", {8}),
    "ASCII locale": ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 %s config show", {0}),
    "closed standard input": ("%s solve - <&-", {2}),
    "closed pipe": ("%s config show | head -1 > /dev/null; exit ${PIPESTATUS[0]}", {0, 141}),
}


def measured(what: str, line: list[str] | str, folder: Path, codes: set[int]) -> dict[str, Any]:
    """A command in a process of its own, with the most memory that it had."""
    began = time.monotonic()
    process = subprocess.Popen(
        line,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        shell=isinstance(line, str),
        executable="/bin/bash" if isinstance(line, str) else None,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return {
        "what": what,
        "exit": code,
        "as_wanted": code in codes and (code == 0 or code == 141 or "Fix:" in said),
        "seconds": round(time.monotonic() - began, 2),
        "mib": usage.ru_maxrss // 1024,
        "trace": "Traceback" in said or "not foreseen" in said,
        "secret": SECRET in said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="", help="file of the rows")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def add(found: dict[str, Any]) -> None:
        if not rows:
            print("\t".join(found), flush=True)
        rows.append(found)
        print("\t".join(map(str, found.values())), flush=True)
        if given.json:
            Path(given.json).write_text(json.dumps(rows, indent=2) + "\n")

    agent = [sys.executable, "-m", "agent"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = EMBEDDED / "expressions" / "policy"
        row = {"question": "a?", "answer": "The answer is" + " " * 10_000 + "x"}
        (folder / "blanks.jsonl").write_text(json.dumps(row) + "\n")
        import sqlite3

        connection = sqlite3.connect(folder / "foreign.db")
        connection.execute("CREATE TABLE cakes (name TEXT)")
        connection.commit()
        connection.close()
        os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent.parent)
        shutil.copytree(source, folder / "whole")
        line = [*agent, *QUESTION, "--policy", "whole"]
        add(measured("baseline: the policy as it is", line, folder, {0}))
        for what, change in FORGED.items():
            place = folder / "forged"
            shutil.copytree(source, place)
            (place / "manifest.json").unlink(missing_ok=True)
            change(place)
            line = [*agent, *QUESTION, "--policy", "forged"]
            add(measured(what, line, folder, {2}))
            shutil.rmtree(place)
        for what, (words, codes) in WRONG.items():
            add(measured(what, [*agent, *words], folder, codes))
        for what, (script, codes) in SHELL.items():
            add(measured(what, script % " ".join(agent), folder, codes))
    bad = [r for r in rows if not r["as_wanted"] or r["trace"] or r["secret"]]
    print(f"{len(rows)} rows, {len(bad)} not as wanted")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
