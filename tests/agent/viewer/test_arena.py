"""Standings and ballots as pages."""

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from agent.config.load import load_config
from agent.service.view_server import view_app
from store.arena import votes_cast
from store.database import open_store
from tests.agent.arena.votes import add_answers

HOSTILE = "<script>window.hurt=1</script>"


@pytest.fixture
def url(tmp_path: Path) -> str:
    found = f"sqlite:///{tmp_path}/s.db"
    store = open_store(found)
    add_answers(store, "p1", [(HOSTILE, False), ("one", True)])
    add_answers(store, "p2", [("two", True), ("two", False)])
    store.close()
    return found


def pages(url: str, judge: str = "") -> TestClient:
    app = view_app(load_config({"store": url})[0], judge)
    return TestClient(app, base_url="http://127.0.0.1")


def test_a_judge_votes_in_the_browser_without_knowing_whose_the_answers_are(url: str) -> None:
    client = pages(url, "ada")
    page, seen = client.get("/view/arena/ballot").text, []
    for _ in range(2):
        assert "Which answer is better?" in page and HOSTILE not in page
        assert "/greedy" not in page
        ballot = re.search(r'name="ballot" value="(\d+)"', page)
        assert ballot is not None
        form = {"task": "stories", "ballot": ballot[1], "choice": "left-2"}
        page = client.post("/view/arena/ballot", data=form).text
        assert "Voted: left" in page
        seen.append(ballot[1])
    assert len(set(seen)) == 2
    assert "Nothing is left to compare for ada." in page
    store = open_store(url)
    with store.session() as session:
        assert [(v.judge, v.strength) for v in votes_cast(session, "stories")] == [("ada", 2)] * 2
    assert "2 votes on 2 problems" in client.get("/view/arena").text


def test_without_a_judge_nobody_can_vote(url: str) -> None:
    client = pages(url)
    assert client.get("/view/arena/ballot").status_code == 404
    assert client.post("/view/arena/ballot", data={"choice": "tie"}).status_code in (404, 405)
    page = client.get("/view/arena").text
    assert "there are no votes yet" in page and "ratchet view --judge NAME" in page


def test_a_page_of_another_site_cannot_vote(url: str) -> None:
    client = pages(url, "ada")
    ballot = re.search(r'name="ballot" value="(\d+)"', client.get("/view/arena/ballot").text)
    assert ballot is not None
    form = {"task": "stories", "ballot": ballot[1], "choice": "tie"}
    told = client.post("/view/arena/ballot", data=form, headers={"origin": "http://evil.example"})
    assert told.status_code == 403
    assert client.post("/view/arena/ballot", data=form).status_code == 200


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"task": "stories", "ballot": "99", "choice": "tie"}, 404),
        ({"task": "stories", "ballot": "-1", "choice": "tie"}, 400),
        ({"task": "stories", "ballot": "1", "choice": "all"}, 400),
        ({"task": "no", "ballot": "1", "choice": "tie"}, 404),
        ({}, 400),
        ({"task": "x" * 2000}, 413),
    ],
)
def test_a_form_that_is_no_vote_writes_nothing(url: str, form: dict[str, str], status: int) -> None:
    client = pages(url, "ada")
    assert client.post("/view/arena/ballot", data=form).status_code == status
    store = open_store(url)
    with store.session() as session:
        assert votes_cast(session, "stories") == []
