"""`ratchet arena` as people type it."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from store.database import open_store
from tests.agent.arena.votes import add_answers


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/s.db"
    store = open_store(found)
    add_answers(store, "p1", [("one", False), ("one", True), ("one\x1b[2J", False)])
    add_answers(store, "p2", [("two", True), ("two", False), ("two", True)])
    store.close()
    return found


def ratchet(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["ratchet", "arena", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    told = capsys.readouterr()
    return code, told.out, told.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = ratchet(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_verifiers_vote_and_the_table_says_who_leads(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, "verify", "--store", url)
    assert (found["pairs"], found["new_votes"]) == (3, 3)
    assert document(capsys, "verify", "--store", url)["new_votes"] == 0
    found = document(capsys, "standings", "--store", url, "--ties", "davidson")
    assert [(r["contestant"], r["wins"], r["losses"]) for r in found["rows"]] == [
        ("p2/greedy", 2, 1),
        ("p1/greedy", 1, 2),
    ]
    assert found["rows"][0]["best_rank"] == 1 and found["clusters"] == "vote"
    assert "3 problems: votes on one are taken as independent" in found["notes"][0]
    _, out, _ = ratchet(capsys, "standings", "--store", url)
    assert "3 votes on 3 problems by 1 judges" in out


def test_votes_are_blind_until_cast_and_read_line_by_line(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("l3\nwhat\ns\nb\n"))
    code, out, err = ratchet(capsys, "vote", "--judge", "ada", "--store", url)
    assert code == 0 and "2 votes of ada" in err and "'what' is none of these" in err
    assert "greedy" not in out
    assert "\x1b" not in out
    rows = Path(url.removeprefix("sqlite:///")).with_name("v.jsonl")
    document(capsys, "export", "--out", str(rows), "--store", url)
    cast = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [(v["choice"], v["strength"], v["judge"]) for v in cast] == [
        ("left", 3, "ada"),
        ("bad", 1, "ada"),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["standings"], "there are no votes yet"),
        (["standings", "--task", "game24"], "no written answers of task 'game24'"),
        (["standings", "--judge", "eve"], "no vote is by a judge 'eve'"),
        (["verify", "--contestant", "p9/greedy"], "no contestant 'p9/greedy'"),
        (["vote", "--judge", "verifier:x"], "no name of a judge"),
        (["ask", "--judge", "ftp://host/v1"], "the judge's address is no http address"),
        (["ask", "--judge", "/nowhere"], "/nowhere"),
    ],
)
def test_what_is_wrong_is_named_with_a_way_out(
    url: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, _, err = ratchet(capsys, *arguments, "--store", url)
    assert code not in (0, 1) and told in err and "Fix:" in err and "Traceback" not in err


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["standings"], ["verify"], ["vote", "--judge", "ada"]):
        code, _, err = ratchet(capsys, *command, "--store", f"sqlite:///{tmp_path}/no.db")
        assert code != 0 and "no.db" in err
    assert not (tmp_path / "no.db").exists()
