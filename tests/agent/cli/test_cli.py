"""The command line as people type it, right and wrong: one clear message, a fix, an exit code."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.checkpoints.embedded import EMBEDDED
from agent.cli.app import app, config_app, inspect_app, store_app
from agent.cli.main import main
from agent.cli.models_app import models_app
from agent.config.load import load_config
from tests.agent.conftest import write_checkpoint
from tests.agent.rounds.small import ROOT, SMALL, improve, places

SHARED = ROOT.parent / "shared/data"


def ratchet(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        env=environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command in this process, typed in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in [n for n in os.environ if n.startswith("RATCHET_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ratchet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store in which one small round was run."""
    folder = tmp_path_factory.mktemp("played")
    policy = write_checkpoint(folder / "policy")
    done = improve(folder, policy)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_has_two_examples_in_its_help() -> None:
    commands = [
        *app.registered_commands,
        *inspect_app.registered_commands,
        *config_app.registered_commands,
        *store_app.registered_commands,
        *models_app.registered_commands,
    ]
    assert len(commands) >= 14
    for command in commands:
        text = command.callback.__doc__ or ""
        assert text.count("    ratchet ") + text.count("ratchet config") >= 2, command.name


WRONG: list[tuple[list[str], int, str]] = [
    (["improve", "--task", "chess"], 2, "chess"),
    (["improve", "--policy", "/nowhere"], 2, "/nowhere"),
    (["improve", "--task", "jsonl"], 2, "--problems"),
    (["improve", "--task", "jsonl", "--problems", "none.jsonl"], 2, "none.jsonl"),
    (["improve", "--problems", "x.jsonl"], 2, "x.jsonl"),
    (["improve", "--set", "training.num_step=3"], 2, "training.num_steps"),
    (["improve", "--set", "nonsense"], 2, "KEY=VALUE"),
    (["improve", "--store", "mysql://x"], 2, "mysql"),
    (["improve", "--simulations", "0"], 2, "simulations"),
    (["improve", "--config", "none.toml"], 2, "none.toml"),
    (["improve", "--nonsense"], 2, "--nonsense"),
    (["improve", "--set", "training.quantization=nf4"], 2, "training.trainer"),
    (["improve", "--set", "training.lora_rank=9999"], 2, "training.lora_rank"),
    (["improve", "--set", "training.method=ppo"], 2, "training.method"),
    (["improve", "--set", "bundle=nowhere"], 2, "nowhere"),
    (["evaluate", "--compare", "nowhere", "there"], 3, "nowhere"),
    (["solve", "hello"], 2, "hello"),
    (["solve", ""], 2, "not an expression"),
    (["evaluate", "--mode", "guess"], 2, "guess"),
    (["inspect", "rounds"], 3, "ratchet improve"),
    (["status"], 3, "ratchet improve"),
    (["models"], 3, "ratchet improve"),
    (["improve", "--rounds", "0"], 2, "'0'"),
    (["improve", "--set", "training.max_epochs=inf"], 2, "max_epochs"),
    (["inspect", "tree", "abc"], 2, "search_id"),
    (["inspect", "rounds", "--store", "sqlite:///"], 2, "sqlite:///"),
    (["improve", "--dry-run", "--store", "mysql://x/y"], 2, "mysql"),
    (["evaluate", "--simulations", "0"], 2, "'0'"),
    (["evaluate", "--compare", "a", "b", "--mode", "search"], 2, "--mode"),
    (["solve", "1+2", "--run", "nosuch"], 3, "nosuch"),
]


@pytest.mark.parametrize(("arguments", "code", "word"), WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_command_says_what_and_how_to_mend_it(
    arguments: list[str],
    code: int,
    word: str,
    tmp_path: Path,
    typed: Callable[..., tuple[int, str, str]],
) -> None:
    ended, said, complained = typed(*arguments)
    assert (ended, said) == (code, ""), complained
    assert word in complained
    assert "Traceback" not in complained
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_told_before_a_model_library_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom agent.cli.main import main\n"
        "sys.argv = ['ratchet', 'improve', '--set', 'training.num_step=3']\n"
        "try: main()\nexcept SystemExit as ended: print(ended.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
        | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["2", "False"], done.stderr
    assert "training.num_steps" in done.stderr


def test_an_error_is_a_document_where_json_is_wanted(tmp_path: Path) -> None:
    done = ratchet("improve", "--task", "chess", "--json", cwd=tmp_path)
    error = json.loads(done.stderr)["error"]
    assert set(error) == {"code", "message", "next"} and "chess" in error["message"]


@pytest.mark.round
def test_the_plan_starts_nothing(tmp_path: Path) -> None:
    done = ratchet("improve", "--dry-run", "--rounds", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["problems"] == 5000 and plan["held_out_problems"] == 600
    assert min(plan["tokens_about"].values()) > 0 and plan["disk_bytes_about"] > 0
    parts = {"searching", "labelling", "evaluating", "training"}
    assert set(plan["seconds_about"]) == parts | {"all"}
    assert plan["gate_needs_gained"] == 7 and 1 < plan["gate_detects_points"] < 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.round
def test_the_plan_refuses_what_the_round_would_refuse(tmp_path: Path) -> None:
    policy = write_checkpoint(tmp_path / "policy")
    (policy / "tokenizer.json").unlink()
    done = ratchet("improve", "--dry-run", "--set", f"policy={policy}", cwd=tmp_path)
    assert done.returncode == 2 and "tokenizer.json" in done.stderr
    inline = ("--hosting", "inline", "--set", "hosting.workers=2")
    done = ratchet("improve", "--dry-run", *inline, cwd=tmp_path)
    assert done.returncode == 2 and "hosting.workers is 2" in done.stderr


@pytest.mark.round
def test_solve_finds_the_answer_and_shows_its_steps(tmp_path: Path) -> None:
    done = ratchet("solve", "7+2*3-4", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["answer"] == "9"
    assert [s["text"] for s in found["steps"]] == ["7+6-4", "13-4", "9"]
    assert found["is_sound"] is True and found["simulations"] >= 1
    assert set(found["models"]) == {"policy", "drafter", "value", "process", "outcome"}
    again = json.loads(ratchet("solve", "7+2*3-4", "--json", cwd=tmp_path).stdout)
    assert again == found


@pytest.mark.round
def test_evaluate_reports_each_mode_with_interval_and_tokens(tmp_path: Path) -> None:
    done = ratchet(
        "evaluate",
        "--mode",
        "greedy",
        "--mode",
        "search",
        "--simulations",
        "2",
        "--num-problems",
        "12",
        "--json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    assert [r["mode"] for r in results] == ["greedy", "search 2"]
    for r in results:
        assert r["n"] == 12 and r["low"] <= r["correct"] / 12 <= r["high"]
        assert r["tokens_per_problem"] > 0
    assert results[1]["correct"] >= results[0]["correct"]


def stored(played: Path, *arguments: str) -> Any:
    done = ratchet(*arguments, "--store", places(played)["store"], "--json", cwd=played)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema_version"] == 1
    return found.get("rows", found)


@pytest.mark.round
def test_what_a_round_left_can_be_inspected(played: Path) -> None:
    (row,) = stored(played, "inspect", "rounds")
    assert row["searches"] == "10/10" and row["stage"] in ("promoted", "kept")
    searches = stored(played, "inspect", "searches", "--limit", "3")
    assert len(searches) == 3
    whole = stored(played, "inspect", "tree", str(searches[0]["search"]))
    assert whole["search"]["problem"] == searches[0]["problem"]
    tree = whole["nodes"]
    samples = stored(played, "inspect", "samples", "--round", "0", "--limit", "99")
    assert len(samples) == 12 and all(s["reference"] for s in samples)
    assert any(s["text"] for s in samples)
    assert tree[0]["parent"] is None and tree[0]["n"] == searches[0]["simulations"]
    assert isinstance(stored(played, "inspect", "trajectories", "--limit", "2"), list)
    assert stored(played, "inspect", "sql", "SELECT count(*) AS n FROM searches") == [{"n": 10}]
    assert all(r["violations"] == 0 for r in stored(played, "store", "check"))
    models = stored(played, "models")
    assert {m["role"] for m in models} == {"policy", "drafter", "value", "process", "outcome"}
    status = stored(played, "status")
    assert status["searches"] == {"done": 10} and status["worked_on_by"] is None
    assert len(status["actors"]) == 5


@pytest.mark.round
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["inspect", "searches", "--run", "zz"], "zz"),
        (["inspect", "trajectories", "--round", "7"], "no round 7"),
        (["inspect", "critics", "--run", "zz"], "zz"),
        (["inspect", "ask", "cost", "--round", "9"], "no round 9"),
        (["inspect", "ask", "tree", "--search", "99"], "no search 99"),
        (["inspect", "ask", "lineage", "--checkpoint", "nosuch"], "nosuch"),
        (["store", "vacuum", "--run", "zz"], "zz"),
        (["store", "export", "sft", "--out", "x.jsonl", "--run", "zz"], "zz"),
    ],
    ids=str,
)
def test_a_name_that_the_store_does_not_know_is_told(
    played: Path, arguments: list[str], word: str, typed: Callable[..., tuple[int, str, str]]
) -> None:
    code, said, complained = typed(*arguments, "--store", places(played)["store"])
    assert (code, said) == (3, "") and word in complained


def test_an_empty_file_is_no_store_and_stays_empty(
    tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "empty.db").touch()
    code, said, _ = typed("inspect", "rounds", "--store", f"sqlite:///{tmp_path}/empty.db")
    assert (code, said) == (3, "") and (tmp_path / "empty.db").stat().st_size == 0


def test_the_switch_of_the_kernels_is_no_setting_but_checked(
    monkeypatch: pytest.MonkeyPatch, typed: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setenv("RATCHET_KERNELS", "fast")
    code, _, complained = typed("config", "show")
    assert code == 2 and "'fast'" in complained
    monkeypatch.setenv("RATCHET_KERNELS", "twin")
    load_config({})


@pytest.mark.round
def test_an_export_takes_the_runs_own_task(
    played: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    store = places(played)["store"]
    code, _, complained = typed(
        "store", "export", "sft", "--out", "x.jsonl", "--task", "stories", "--store", store
    )
    assert code == 2 and "'expressions'" in complained


@pytest.mark.round
def test_tables_are_readable_text_when_piped(played: Path) -> None:
    store = places(played)["store"]
    done = ratchet("inspect", "searches", "--store", store, cwd=played)
    lines = done.stdout.splitlines()
    assert lines[0].split("\t")[:2] == ["search", "round"] and len(lines) == 11
    done = ratchet("inspect", "tree", "1", "--store", store, cwd=played)
    assert " N " in done.stdout and " Q " in done.stdout


@pytest.mark.round
def test_doctor_finds_this_machine_fit(played: Path) -> None:
    checks = {c["check"]: c for c in stored(played, "doctor")}
    assert checks["torch"]["verdict"] == checks["ray"]["verdict"] == "good"
    assert checks["store"]["verdict"] == "good"


@pytest.mark.round
def test_config_show_says_value_default_origin_and_meaning(tmp_path: Path) -> None:
    (tmp_path / "ratchet.toml").write_text("seed = 3\n")
    done = ratchet("config", "show", "--json", cwd=tmp_path)
    rows = {r["key"]: r for r in json.loads(done.stdout)["rows"]}
    assert (rows["seed"]["value"], rows["seed"]["default"]) == (3, 0)
    assert rows["seed"]["origin"] == "ratchet.toml" and rows["run"]["origin"] == "default"
    assert len(rows) == 168 and all(row["meaning"] for row in rows.values())


@pytest.mark.round
def test_config_show_takes_a_section_or_a_setting(tmp_path: Path) -> None:
    out = ratchet("config", "show", "selection", cwd=tmp_path).stdout
    assert [line.split("\t")[0] for line in out.splitlines()][:2] == [
        *("key", "selection.min_precision"),
    ]
    (row,) = ratchet("config", "show", "search.max_seconds", cwd=tmp_path).stdout.splitlines()[1:]
    assert row.startswith("search.max_seconds\t0.0\t0.0\tdefault\tSeconds, at most")


@pytest.mark.parametrize(
    ("asked", "fix"),
    [
        ("training.methd", "did you mean 'training.method'"),
        ("trainin", "did you mean 'training'"),
        ("Training", "did you mean 'training'"),
        ("seeed", "did you mean 'seed'"),
        ("nonsense", "critics, evaluation, hosting"),
    ],
)
def test_config_show_refuses_what_is_neither_a_setting_nor_a_section(
    typed: Callable[..., tuple[int, str, str]], asked: str, fix: str
) -> None:
    code, out, err = typed("config", "show", asked)
    assert code == 2 and not out and fix in err


@pytest.mark.parametrize("task", ["expressions", "stories"])
def test_the_embedded_models_are_whole(task: str) -> None:
    from agent.checkpoints.checkpoint import verify_checkpoint
    from agent.checkpoints.weights import load_model

    policy = verify_checkpoint(EMBEDDED / task / "policy")
    for role in ("drafter", "value", "process", "outcome"):
        checkpoint = verify_checkpoint(EMBEDDED / task / role)
        assert checkpoint.notes["parent"] == policy.version
        assert checkpoint.notes["role"] == role
        load_model(checkpoint)


@pytest.mark.round
def test_a_whole_round_runs_on_real_gsm8k_problems(tmp_path: Path) -> None:
    """Nobody expects a random model to be right: the round must run to its verdict."""
    file = SHARED / "gsm8k/train.jsonl"
    if not file.is_file():
        pytest.skip(f"GSM8K is not at {file}")
    from tests.agent.networks.llama import write_text_checkpoint

    policy = write_text_checkpoint(tmp_path / "llama", file)
    flags = SMALL | {
        "task": "jsonl",
        "problems": str(file),
        "problems_per_round": 8,
        "num_seeds": 50,
        "selection.min_precision": 0,  # or the round would learn from right answers alone
        "evaluation.num_problems": 10,
        "evaluation.num_search_problems": 2,
        # Long and warm enough for a random model to end some of its texts.
        "hosting.text_tokens": 150,
        "search.num_rollouts": 4,
        "search.rollout_temperature": 1.0,
        "search.max_tokens": 5000,
    }
    done = improve(tmp_path, policy, **flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rounds"]
    assert row["stage"] in ("promoted", "kept")
    assert row["verdict"]["n"] == 10
    questions = stored(tmp_path, "inspect", "searches", "--limit", "20")
    assert len(questions) == 8 and all(q["reference"] for q in questions)


@pytest.mark.round
def test_two_policies_are_compared_paired_on_the_same_problems(tmp_path: Path) -> None:
    policy = str(EMBEDDED / "expressions/policy")
    other = str(write_checkpoint(tmp_path / "other"))
    done = ratchet(
        "evaluate", "--compare", other, policy, "--num-problems", "40", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before, after = found["policies"]
    assert before["correct"] == 0 < after["correct"] and before["n"] == after["n"] == 40
    assert found["verdict"]["gained"] == after["correct"] and found["verdict"]["is_promoted"]
    assert before["bits_per_character"] > 1 > after["bits_per_character"]


@pytest.mark.round
def test_the_version_is_told_and_names_the_commit(tmp_path: Path) -> None:
    done = ratchet("--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"ratchet \d+\.\d+\.\d+(\+[0-9a-f]{12})?\n", done.stdout)


@pytest.mark.round
def test_rounds_that_come_to_nothing_end_with_a_code_of_their_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    done = improve(tmp_path, checkpoint, **{"selection.min_confidence": 1.0, "seed": 3} | NOBODY)
    assert done.returncode == 4, done.stderr
    (row,) = json.loads(done.stdout)["rounds"]
    assert row["stage"] == "kept" and row["verdict"]["n"] == 0


NOBODY = {"selection.max_tokens": 1, "selection.min_outcome": 1.0}


@pytest.mark.round
def test_the_only_run_of_a_store_need_not_be_named(played: Path, tmp_path: Path) -> None:
    shutil.copyfile(played / "store.db", tmp_path / "store.db")
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE runs SET name = 'mine'")
    assert stored(tmp_path, "status")["run"] == "mine"
    assert len(stored(tmp_path, "inspect", "searches", "--limit", "3")) == 3
    assert stored(tmp_path, "inspect", "ask", "flip_texts") is not None


@pytest.mark.round
def test_a_gate_that_cannot_pass_is_refused_by_the_plan(tmp_path: Path) -> None:
    done = ratchet(
        "improve", "--dry-run", "--set", "evaluation.num_problems=4", "--json", cwd=tmp_path
    )
    error = json.loads(done.stderr)["error"]
    assert done.returncode == 2 and "4 held-out problems" in error["message"]
    assert "7 held-out problems or more" in error["next"]


def test_a_table_wider_than_the_screen_becomes_records(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from agent.cli import output

    def narrow(**named: object) -> Console:
        return Console(force_terminal=True, width=80, no_color=True)

    monkeypatch.setattr(output, "Console", narrow)
    words = "every word of this long cell must come out whole however narrow the screen may be"
    output.table([{"number": i, "text": words, "other": "x" * 30} for i in range(2)])
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, shown.splitlines())) <= 80
    assert all(word in re.sub(r"[^\w\n]", " ", shown).split() for word in words.split())
    output.table([{"a": 1, "b": "short"}])
    assert "│ 1 │ short │" in capsys.readouterr().out


@pytest.mark.round
def test_settings_that_differ_in_an_open_round_are_named(checkpoint: Path, tmp_path: Path) -> None:
    improve(tmp_path, checkpoint, failpoint="after-searching")
    done = improve(tmp_path, checkpoint, **{"search.simulations": 5, "hosting.text_tokens": 21})
    message = json.loads(done.stderr.strip().splitlines()[-1])["error"]["message"]
    assert "search.simulations was 4, is 5" in message
    assert "hosting.text_tokens was 20, is 21" in message and "store" not in message
