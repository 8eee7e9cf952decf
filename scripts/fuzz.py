"""Hostile inputs at every door, as a habit.

    scripts/fuzz                                    # 2,000 inputs, seed 0, two minutes at most
    python -m scripts.fuzz --inputs 10000 --seconds 1800 --seed 7 --json out.json

Hypothesis draws commands, flags, settings, environments, TOML files, problem files, checkpoints,
databases, SQL and standard input; each goes through the command line as a user's would, in this
process. Counted are: errors that nobody foresaw (a report is written), inputs that take longer than
five seconds, exit codes that the README does not name, processes of ours that print a traceback,
secrets on the screen, control bytes on the screen, and changes of a store or folder that was only
looked at. Each finding is printed with what brings it about.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agent.checkpoints.embedded import EMBEDDED
from agent.cli.main import main as ratchet
from agent.config.meanings import meanings

CODES = {0, 2, 3, 4, 5, 7, 8, 130, 141, 143}
"""Exit codes of the README; 1 is for what nobody foresaw, which is what is looked for."""
HANG_S = 5.0
STUCK_S = 90.0
"""After which the whole program ends with the place where it is stuck."""
SECRET = "c4n4ry-p4ssw0rd"
NESTED = 3_000


@dataclass(frozen=True)
class Input:
    """What a user types and has lying about."""

    door: str
    arguments: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    standard_input: bytes = b""


class Hang(BaseException):
    """An input took too long; not an Exception, so that nothing swallows it."""


NASTY = (
    *("", " ", "-", "--", "0", "-1", "1e999", "nan", "inf", "-inf", "9" * 400, "1" * 5_000),
    *("\x1b[31mred\x1b[0m", "\x00", "a\x00b", "\ud800", "\u202egnp", "é" * 300, "\n", "\t"),
    *("../../etc/passwd", "~nobody-here/x", "/dev/null", "/dev/zero", "/proc/self/mem", "/"),
    *("x" * 5_000, "a/" * 3_000, "[" * NESTED, "{" * NESTED, '{"a":' * NESTED, "'; DROP TABLE"),
    *("hf:", "hf:nobody/nothing", "file.py:Class", "os:system", ":", "{}", "[]", "[1,2", "null"),
    *("true", "auto", "none", "1_000", "0x10", "٣", "½", "1.5.2", "$HOME", "`id`", "%s%n", "{0}"),
    f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/d",
)
text = st.one_of(st.sampled_from(NASTY), st.text(max_size=40), st.integers().map(str))
json_value = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(),
        st.sampled_from(["question", "answer", "1+1", "#### 2", *NASTY[:20]]),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
key = st.one_of(st.sampled_from(sorted(meanings())), text)
LOOKING = (
    *(("status",), ("models",), ("inspect", "rounds"), ("inspect", "searches")),
    *(("inspect", "trajectories"), ("inspect", "critics"), ("inspect", "samples")),
    *(("inspect", "tree", "1"), ("inspect", "siblings", "1"), ("inspect", "compare", "0", "1")),
    *(("inspect", "ask", "cost"), ("inspect", "sql", "SELECT 1"), ("store", "check")),
    ("store", "export", "sft", "--out", "out.jsonl", "--overwrite"),
)
ADDED = (
    *("--json", "--limit", "--round", "--run", "--after", "--all", "--unsolved", "--gained"),
    *("--kept", "--sql", "--timeout", "--search", "--checkpoint", "--mode", "--help", "--store"),
    *("--set", "--config", "--seed", "--policy", "--task", "--problems", "--held-out", "--debug"),
)


def _environment(name: str) -> bool:
    return bool(name) and "=" not in name and "\0" not in name


@st.composite
def flags(draw: st.DrawFn) -> Input:
    command = draw(st.sampled_from([*LOOKING, ("config", "show"), ("solve", "--"), ("nothing",)]))
    more: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        more.append(draw(st.sampled_from(ADDED)))
        if draw(st.booleans()):
            more.append(draw(text))
    store = draw(st.sampled_from(["sqlite:///fixed/s.db", "sqlite:///fixed/foreign.db"]))
    tail = ("--store", store) if command[0] not in ("config", "solve") else ()
    return Input("flags", (*command, *more, *tail))


@st.composite
def set_values(draw: st.DrawFn) -> Input:
    sets = draw(st.lists(st.tuples(key, text), min_size=1, max_size=3))
    given = [part for k, v in sets for part in ("--set", f"{k}={v}")]
    plan = draw(st.booleans())
    command = ("improve", "--dry-run") if plan else ("config", "show")
    return Input("settings", (*command, *given))


@st.composite
def environments(draw: st.DrawFn) -> Input:
    name = draw(st.sampled_from(sorted(meanings()))).upper().replace(".", "__")
    other = draw(st.text("ABC_", max_size=5))
    value = draw(text.filter(lambda t: "\0" not in t))
    if any("\udc80" > c >= "\ud800" or (c > "\udcff" and c <= "\udfff") for c in value):
        value = "\udcff"
    return Input("environment", ("config", "show"), environment={f"RATCHET_{name}{other}": value})


@st.composite
def toml_files(draw: st.DrawFn) -> Input:
    lines = draw(st.lists(st.tuples(key, json_value), max_size=4))
    whole = "\n".join(f"{k} = {json.dumps(v)}" for k, v in lines)
    data = draw(
        st.one_of(
            st.just(whole.encode("utf-8", "replace")),
            st.binary(max_size=60),
            text.map(lambda t: f"run = {t}".encode("utf-8", "replace")),
        )
    )
    name = draw(st.sampled_from(["ratchet.toml", "other.toml"]))
    more = ("--config", name) if name != "ratchet.toml" else ()
    return Input("TOML", ("config", "show", *more), {name: data})


@st.composite
def problem_files(draw: st.DrawFn) -> Input:
    names = st.sampled_from(["question", "problem", "answer", "solution", "prompt", "messages"])
    row = st.one_of(st.dictionaries(names, json_value, max_size=4), json_value)
    lines = draw(st.lists(row, max_size=4))
    kind = draw(st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ""]))
    data = draw(
        st.one_of(
            st.just("\n".join(map(json.dumps, lines)).encode()),
            st.just(json.dumps(lines).encode()),
            st.binary(max_size=80),
            text.map(lambda t: f"question,answer\n{t},{t}\n".encode("utf-8", "replace")),
            st.sampled_from([b"[" * NESTED, b'{"question": "' + b" " * 50_000 + b'"}']),
        )
    )
    skip = draw(st.sampled_from([(), ("--set", "bad_rows=skip")]))
    policy = ("--policy", "fixed/policy")
    return Input(
        "problem files",
        ("improve", "--dry-run", "--task", "jsonl", "--problems", f"rows{kind}", *policy, *skip),
        {f"rows{kind}": data},
    )


@st.composite
def checkpoints(draw: st.DrawFn) -> Input:
    """The embedded policy with one of its files changed."""
    source = EMBEDDED / "expressions" / "policy"
    files = {f"policy/{p.name}": p.read_bytes() for p in source.iterdir()}
    files.pop("policy/manifest.json", None)
    name = draw(
        st.sampled_from(
            [
                *("config.json", "generation_config.json", "tokenizer.json"),
                *("tokenizer_config.json", "model.safetensors", "ratchet.json"),
            ]
        )
    )
    files[f"policy/{name}"] = draw(_changed(name, files.get(f"policy/{name}", b"{}")))
    return Input("checkpoints", ("improve", "--dry-run", "--policy", "policy"), files)


def _changed(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    changes = [
        st.binary(max_size=50),
        st.integers(0, len(data)).map(lambda n: data[:n]),
        st.tuples(st.integers(0, max(0, min(len(data), 4_000) - 1)), st.integers(1, 255)).map(
            lambda at: (
                data[: at[0]] + bytes([data[at[0]] ^ at[1]]) + data[at[0] + 1 :] if data else b""
            )
        ),
        st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b"1"]),
    ]
    if name.endswith(".json"):
        known = json.loads(data)
        names = st.one_of(st.sampled_from(sorted(known) or ["a"]), st.text(max_size=10))
        changes.append(
            st.tuples(names, json_value).map(
                lambda kv: json.dumps(known | {kv[0]: kv[1]}).encode("utf-8", "replace")
            )
        )
    return st.one_of(changes)


@st.composite
def databases(draw: st.DrawFn) -> Input:
    """A store with bytes changed, cut off, or something else under its name."""
    whole = Path("fixed/s.db").read_bytes()
    places = draw(
        st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 255)), min_size=1, max_size=30)
    )
    damaged = bytearray(whole)
    for place, value in places:
        damaged[place % len(damaged)] = value
    data = draw(
        st.sampled_from([bytes(damaged), whole[: places[0][0]], b"", b"SQLite format 3\0" * 9])
    )
    command = draw(st.sampled_from(LOOKING))
    return Input("databases", (*command, "--store", "sqlite:///damaged.db"), {"damaged.db": data})


@st.composite
def addresses(draw: st.DrawFn) -> Input:
    driver = draw(
        st.sampled_from(
            ["sqlite", "sqlite+aiosqlite", "postgresql", "postgresql+psycopg", "mysql", "", "x"]
        )
    )
    rest = draw(
        st.one_of(
            text,
            st.just(f"u:{SECRET}@127.0.0.1:1/d"),
            st.just(f"u:{SECRET}@127.0.0.1:1/d?password={SECRET}"),
            st.just("/fixed/s.db?mode=rw&uri=true"),
            st.just(f"u:{SECRET}@[::1"),
        )
    )
    command = draw(st.sampled_from([*LOOKING, ("store", "migrate"), ("improve", "--dry-run")]))
    return Input("store URLs", (*command, "--store", f"{driver}://{rest}"))


@st.composite
def statements(draw: st.DrawFn) -> Input:
    words = st.sampled_from(
        [
            *("SELECT", "*", "FROM", "runs", "nodes", ",", "(", ")", "1", "'x'", ";", "--", "/*"),
            *("DELETE", "UPDATE", "ATTACH", "PRAGMA", "WITH", "RECURSIVE", "UNION", "ALL", "ORDER"),
            *("printf('%.*c', 100000000, 'x')", "zeroblob(100000000)", "randomblob(9000000)"),
            *("hex(zeroblob(4000000))", "NULL", "x'00'", "LIMIT", "AS", "n", "char(0)", "JOIN"),
        ]
    )
    statement = draw(st.one_of(st.lists(words, max_size=12).map(" ".join), text))
    limit = ("--timeout", "0.2", "--store", "sqlite:///fixed/s.db")
    return Input("SQL", ("inspect", "sql", *limit, "--", statement))


@st.composite
def questions(draw: st.DrawFn) -> Input:
    task = draw(st.sampled_from(["expressions", "stories", "game24", "ledger"]))
    raw = draw(
        st.one_of(
            text.map(lambda t: t.encode("utf-8", "replace")),
            st.binary(max_size=40),
            st.text("0123456789+-*", max_size=60).map(str.encode),
        )
    )
    few = ("--simulations", "1", "--set", "hosting.text_tokens=8")
    return Input("questions", ("solve", "-", "--task", task, *few), standard_input=raw)


@st.composite
def numbers(draw: st.DrawFn) -> Input:
    command = draw(
        st.sampled_from(
            [
                *(("inspect", "tree"), ("inspect", "siblings"), ("inspect", "compare", "0")),
                *(("inspect", "searches", "--round"), ("inspect", "samples", "--limit")),
                *(("inspect", "ask", "tree", "--search"), ("store", "vacuum", "--keep")),
                ("inspect", "sql", "SELECT 1", "--timeout"),
            ]
        )
    )
    value = draw(
        st.one_of(
            st.integers(-(2**70), 2**70).map(str), st.floats().map(str), st.sampled_from(NASTY)
        )
    )
    return Input("numbers", (*command, value, "--store", "sqlite:///fixed/s.db"))


DOORS = (
    *(flags, set_values, environments, toml_files, problem_files, checkpoints, databases),
    *(addresses, statements, questions, numbers),
)


def prepared(folder: Path) -> None:
    """A store with a small round in it, a database of somebody else's, and a policy."""
    fixed = folder / "fixed"
    fixed.mkdir()
    small = {
        **{"problems_per_round": 6, "search.simulations": 2, "critics.num_labelled": 4},
        **{"critics.samples": 2, "critics.steps": 1, "training.num_steps": 1},
        **{"training.drafter_steps": 0, "evaluation.num_problems": 10, "hosting.hosting": "inline"},
        **{"evaluation.num_search_problems": 2, "checkpoints": "checkpoints"},
        **{"store": "sqlite:///fixed/s.db", "hosting.speculation": "never"},
    }
    sets = [part for k, v in small.items() for part in ("--set", f"{k}={v}")]
    outcome = run(Input("", ("improve", *sets)), 600.0)
    assert outcome.code in (0, 4), outcome.said
    (fixed / "s.db.lock").unlink(missing_ok=True)
    connection = sqlite3.connect(fixed / "foreign.db")
    connection.execute("CREATE TABLE cakes (name TEXT)")
    connection.commit()
    connection.close()
    shutil.copytree(EMBEDDED / "expressions" / "policy", fixed / "policy")


@dataclass(frozen=True)
class Outcome:
    code: int | None
    said: str
    seconds: float


def run(given: Input, limit_s: float = HANG_S) -> Outcome:
    """The command in this process, as typed; code None where it hangs."""
    out, err = io.StringIO(), io.StringIO()
    pipe = io.TextIOWrapper(io.BytesIO(given.standard_input), encoding="utf-8")
    began = time.monotonic()
    faulthandler.dump_traceback_later(max(STUCK_S, 2 * limit_s), exit=True)
    signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    code: int | None = 0
    try:
        with (
            patch.object(sys, "argv", ["ratchet", *given.arguments]),
            patch.object(sys, "stdin", pipe),
            patch.dict(os.environ, given.environment),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            ratchet()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Hang:
        code = None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    return Outcome(code, out.getvalue() + err.getvalue(), time.monotonic() - began)


def _hang(*_: Any) -> None:
    raise Hang


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def faults(given: Input, outcome: Outcome) -> Iterator[str]:
    """What is wrong with what came of an input."""
    is_debugging = "--debug" in given.arguments
    if outcome.code is None:
        yield "hang"
    elif outcome.code == 1 or "not foreseen" in outcome.said:
        yield "unforeseen"
    elif outcome.code not in CODES:
        yield f"exit code {outcome.code}"
    if "Traceback" in outcome.said and not is_debugging:
        yield "traceback"
    if SECRET in outcome.said:
        yield "secret"
    if any((c < " " and c not in "\n\t\r") or c == "\x7f" for c in outcome.said):
        yield "control byte"
    shows_way = any(word in outcome.said for word in ("Fix:", '"next"', "verdict"))
    if outcome.code not in (0, None, 4) and not shows_way and not is_debugging:
        yield "no way out"


@dataclass
class Tally:
    inputs: Counter[str] = field(default_factory=Counter)
    found: list[tuple[str, Input, str]] = field(default_factory=list)
    slowest_s: float = 0.0


def fuzz(num: int, seconds: float, number: int, doors: Sequence[str] = ()) -> Tally:
    """So many inputs, evenly over the doors, in the current folder."""
    tally, fixed = Tally(), Path("fixed")
    before = digest(fixed)
    end = time.monotonic() + seconds

    def check(given: Input) -> None:
        if time.monotonic() > end:
            return
        for name, data in given.files.items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_bytes(data)
        looked_at = Path("damaged.db") if given.door == "databases" else None
        outcome = run(given)
        kinds = list(faults(given, outcome))
        if digest(fixed) != before:
            kinds.append("a folder that was looked at changed")
        if looked_at is not None and looked_at.read_bytes() != given.files["damaged.db"]:
            kinds.append("a store that was looked at changed")
        tally.inputs[given.door] += 1
        tally.slowest_s = max(tally.slowest_s, outcome.seconds)
        for kind in kinds:
            tally.found.append((kind, given, outcome.said[-400:]))
        for name in given.files:
            Path(name).unlink(missing_ok=True)

    chosen = [(i, door) for i, door in enumerate(DOORS) if not doors or door.__name__ in doors]
    for i, door in chosen:
        own = settings(
            max_examples=-(-num // len(chosen)),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        seed(number * 1_000 + i)(own(given(door())(check)))()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2_000, help="over all doors together")
    parser.add_argument("--seconds", type=float, default=120.0, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--doors", nargs="+", default=(), help=", ".join(d.__name__ for d in DOORS))
    parser.add_argument("--json", default="", help="file of what was found")
    asked = parser.parse_args()
    out = Path(asked.json).absolute() if asked.json else None
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ratchet-fuzz-") as name, contextlib.chdir(name):
        os.environ["XDG_STATE_HOME"] = name
        prepared(Path(name))
        tally = fuzz(asked.inputs, asked.seconds, asked.seed, asked.doors)
    kinds = Counter(kind for kind, _, _ in tally.found)
    for kind, found, said in tally.found[:40]:
        files = {k: v[:80] for k, v in found.files.items() if not k.startswith("policy/")}
        print(f"{kind}: {found.door} {str(found.arguments)[:300]} {found.environment} {files}")
        print(f"    {said!r}")
    num = sum(tally.inputs.values())
    print(
        f"{num:,} inputs, seed {asked.seed}, {time.monotonic() - began:.0f} s, slowest "
        f"{tally.slowest_s:.1f} s: {dict(tally.inputs)}"
    )
    print(f"found: {dict(kinds) or 'nothing'}")
    if out is not None:
        rows = {"inputs": dict(tally.inputs), "found": dict(kinds), "seed": asked.seed}
        out.write_text(json.dumps(rows | {"slowest_s": round(tally.slowest_s, 2)}, indent=2) + "\n")
    raise SystemExit(1 if tally.found or num < asked.inputs * 0.95 else 0)


if __name__ == "__main__":
    main()
