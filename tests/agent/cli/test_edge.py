"""The edge of the process: signals, streams, secrets, bounds, and what nobody foresaw."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel

from agent.cli import failures
from agent.cli.app import app
from agent.cli.commands import models
from agent.cli.main import main
from agent.config.load import load_config
from agent.config.paths import SETTINGS, path_of
from agent.config.settings import Config
from agent.visible import shown, visible
from scripts.bench.signals import one
from search.errors import UsageError
from search.settings import MOST, SearchSettings, Width

ROOT = Path(__file__).parent.parent.parent.parent
SECRET = "c4n4ry-p4ssw0rd"
AWAY = f"postgresql+psycopg://u:{SECRET}@127.0.0.1:1/d"
COMMANDS = [
    *("config show", "status", "improve --dry-run", "doctor", "models", "store check"),
    *("store init", "store migrate", "store vacuum", "store export sft --out o.jsonl"),
    *("inspect rounds", "inspect searches", "inspect trajectories", "inspect critics"),
    *("inspect samples", "inspect tree 1", "inspect siblings 1", "inspect compare 0 1"),
    *("inspect sql SELECT+1", "inspect ask cost", "inspect plot --out o.png", "solve 1+1"),
    *("evaluate --num-problems 1", "improve --hosting inline"),
]


def started(*arguments: str, cwd: Path, **variables: str) -> "subprocess.Popen[str]":
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *arguments],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(cwd)} | variables,
    )


@pytest.mark.round
@pytest.mark.parametrize(
    ("hosting", "stage", "name", "twice"),
    [
        ("inline", "import", "SIGINT", False),
        ("inline", "searching", "SIGTERM", False),
        ("inline", "training", "SIGHUP", False),
        ("inline", "searching", "SIGINT", True),
        pytest.param("ray", "training", "SIGTERM", False, marks=pytest.mark.cluster),
    ],
)
def test_a_signal_ends_a_round_with_its_code_and_gives_the_lease_back(
    hosting: str, stage: str, name: str, twice: bool
) -> None:
    number = signal.Signals[name]
    row = one(hosting, stage, number, twice)
    assert row["stage"] == stage  # it came there
    # A second signal may meet the interpreter at its end, where the default is in force again.
    codes = {128 + number, -number} if twice else {128 + number}
    assert row["exit"] in codes
    assert (row["said"], row["trace"]) == (True, False)
    assert (row["left"], row["scratch"]) == (0, 0)
    assert row["goes_on"] in (True, None)


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("config show > /dev/full", 8, "standard output cannot be written"),
        ("--help > /dev/full", 8, "standard output cannot be written"),
        ("config show --json > /dev/full", 8, "standard output cannot be written"),
        ("solve - <&-", 2, "standard input"),
        ("solve - < /dev/null", 2, "standard input is empty"),
        ("solve - < <(printf '\\xff')", 2, "UTF-8"),
        ("config show >&-", 0, ""),
        ("config show >&- 2>&- <&-", 0, ""),
        ("status --run $'\\xff'", 2, "not UTF-8"),
        ("status --store $'sqlite:///\\xff.db'", 2, "not UTF-8"),
    ],
)
def test_streams_that_are_full_closed_or_no_text_have_a_message_and_a_code(
    tmp_path: Path, script: str, code: int, words: str
) -> None:
    done = subprocess.run(
        f"{sys.executable} -m agent {script}",
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_pipe_that_nobody_reads_is_no_error_of_ours(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "agent", "config", "show"],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_every_character_can_be_shown_in_an_ascii_locale(tmp_path: Path) -> None:
    process = started(
        *("config", "show", "search.selection", "--set", "run=größer", "--json"),
        cwd=tmp_path,
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "puct" in out


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command in this process: exit code and all that was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in [n for n in os.environ if n.startswith("RATCHET_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ratchet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_shows_the_password_of_its_store(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("RATCHET_STORE", AWAY)
    monkeypatch.setenv("RATCHET_HOSTING__STORE_WAIT_S", "0")
    words = [word.replace("+1", " 1") if "SELECT" in word else word for word in command.split()]
    codes = []
    for more in ([], ["--json"], ["--store", AWAY]):
        if more == ["--store", AWAY] and command == "config show":
            continue
        if more == ["--json"] and command in (
            "store init",
            "store migrate",
            "inspect plot --out o.png",
        ):
            continue
        monkeypatch.setattr(sys, "argv", ["ratchet", *words, *more])
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        codes.append(ended.value.code)
        said = "".join(capsys.readouterr())
        assert SECRET not in said and "not foreseen" not in said
        assert SECRET not in " ".join(sys.argv)
    assert set(codes) <= {0, 7}
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert SECRET.encode() not in written


def test_a_password_is_neither_stored_nor_in_the_title_of_the_process(tmp_path: Path) -> None:
    config, _ = load_config({"store": AWAY})
    assert config.store == AWAY  # what opens it
    assert SECRET not in json.dumps(config.model_dump(mode="json"))
    assert SECRET not in config.shown_store
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        port = silent.getsockname()[1]
        process = started("status", "--store", AWAY.replace(":1/", f":{port}/"), cwd=tmp_path)
        silent.settimeout(60)
        silent.accept()  # it has got as far as the database
        title = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.kill()
        process.communicate()
    assert b"status" in title and SECRET.encode() not in title


def test_what_nobody_foresaw_is_a_message_with_a_report(
    typed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError(f"by nothing, at x://u:{SECRET}@h \x1b[31m")

    monkeypatch.setattr(models, "run", broken)
    code, said = typed("models")
    assert code == 1 and "ZeroDivisionError" in said and "--debug" in said
    assert "Traceback" not in said and SECRET not in said and "\x1b" not in said
    (file,) = (tmp_path / "state").rglob("report-*.txt")
    report = file.read_text()
    assert "Traceback" in report and "test_edge.py" in report and SECRET not in report
    assert file.stem.removeprefix("report-") in said
    assert file.stat().st_mode & 0o077 == 0
    code, said = typed("models", "--debug")
    assert code == 1 and "Traceback" in said and SECRET not in said


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device", "/x/y"), 8, "/x/y"),
        (PermissionError(13, "Permission denied", "/x/y"), 8, "permission"),
        (MemoryError(), 8, "memory"),
        (RecursionError("deep"), 2, "nested"),
        (IsADirectoryError(21, "Is a directory", "/x"), 8, "/x"),
    ],
)
def test_errors_of_the_system_have_words_of_ours(error: Exception, code: int, words: str) -> None:
    told = failures.told(error)
    assert told.exit_code == code and words in told.message and told.fix


def test_every_number_that_a_command_takes_has_two_bounds() -> None:
    unbounded, numbers = [], []

    def walk(command: Any, path: str) -> None:
        for name, child in getattr(command, "commands", {}).items():
            walk(child, f"{path} {name}")
        for parameter in command.params:
            if parameter.type_descriptor.annotation in (int, float):
                numbers.append(parameter.name)
                if parameter.min is None or parameter.max is None:
                    unbounded.append(f"{path} {parameter.name}")

    walk(typer.main.get_command(app), "ratchet")
    assert unbounded == [] and len(numbers) > 20


def test_every_number_among_the_settings_has_two_bounds() -> None:
    unbounded = []

    def walk(model: type[BaseModel], path: str) -> None:
        for name, field in model.model_fields.items():
            kind = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                walk(kind, f"{path}{name}.")
                continue
            kinds = set(get_args(kind)) or {kind}
            if kinds & {int, float} and bool not in kinds:
                bounds = {type(m).__name__ for m in field.metadata}
                if not bounds & {"Ge", "Gt"} or not bounds & {"Le", "Lt"}:
                    unbounded.append(path + name)

    walk(Config, "")
    assert unbounded == []
    numbers = {f.name for f in fields(SearchSettings) if f.type in (int, float, Width)}
    assert numbers == set(MOST)


@pytest.mark.parametrize(("name", "most"), MOST.items())
def test_a_search_setting_beyond_its_bound_is_refused(name: str, most: float) -> None:
    for value in (most * 2, 10**400, -1):
        with pytest.raises(UsageError) as refused:
            SearchSettings(**{name: value})
        assert name in refused.value.message and len(refused.value.message) < 500


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("~nosuchuser/x", "home"),
        ("x" * 300, "longer"),
        ("a/" * 3_000, "longer"),
        ("a\0b", "NUL"),
    ],
)
def test_a_path_that_none_can_be_is_refused_wherever_it_is_given(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        path_of(text, "--out")
    for key in SETTINGS:
        with pytest.raises(UsageError) as refused:
            load_config({key: text, "selection.min_reward": 0.5})
        assert refused.value.fix


def test_data_cannot_steer_a_terminal() -> None:
    assert visible("a\x1b[2Jb\x07\x9b\u202e") == "a\\x1b[2Jb\\x07\\x9b\\u202e"
    assert visible("tab\tand\nnewline ü 数") == "tab\tand\nnewline ü 数"
    assert shown("[red]x[/]\x1b") == "\\[red]x\\[/]\\x1b"


def test_a_plan_refuses_the_store_that_the_run_would(typed: Any, tmp_path: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(tmp_path / "foreign.db")
    connection.execute("CREATE TABLE cakes (name TEXT)")
    connection.commit()
    connection.close()
    code, said = typed("improve", "--dry-run", "--store", f"sqlite:///{tmp_path}/foreign.db")
    assert code == 7 and "not one of Ratchet" in said
    assert [p.name for p in tmp_path.glob("foreign*")] == ["foreign.db"]
