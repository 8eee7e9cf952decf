"""Searches by their ids: how they stand, their events, and their end."""

import contextlib
import json
import threading
from types import SimpleNamespace
from typing import Any

import httpx2 as httpx
import pytest
from sqlalchemy import select

from agent.service.feeds import LONGEST_S, PAUSE_S, Feeds
from search.simulation_log import Simulation
from store.check import check_store
from store.database import read_store
from store.schema import NodeRow, SearchRow, SimulationRow
from tests.agent.service.conftest import Running, until
from tests.agent.service.test_chat import OTHERS, ask

pytestmark = pytest.mark.round


def get(server: Running, path: str, **more: Any) -> Any:
    return httpx.get(f"{server.url}{path}", timeout=30, **more)


def events(server: Running, search_id: str, after: int = 0) -> list[tuple[str, int | None, Any]]:
    """Name, number and data of each event."""
    headers = {"last-event-id": str(after)} if after else {}
    text = get(server, f"/v1/searches/{search_id}/events", headers=headers).text
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        number = int(fields["id"]) if "id" in fields else None
        found.append((fields["event"], number, json.loads(fields["data"])))
    return found


def stored(server: Running, search_id: str) -> SearchRow | None:
    store = read_store(server.config.store)
    try:
        with store.session() as session:
            return session.scalars(
                select(SearchRow).where(SearchRow.request_id == search_id)
            ).one_or_none()
    finally:
        store.close()


def test_a_served_search_is_stored_like_a_rounds(server: Running) -> None:
    figures = ask(server).search
    until(lambda: stored(server, figures["id"]) is not None)
    row = stored(server, figures["id"])
    assert row is not None and row.status == "done"
    assert (row.answer, row.num_simulations) == ("38", figures["simulations"])
    assert row.num_tokens == figures["sampled_tokens"]
    store = read_store(server.config.store)
    with store.session() as session:
        nodes = session.scalars(select(NodeRow).where(NodeRow.search_id == row.id)).all()
        log = session.scalars(select(SimulationRow).where(SimulationRow.search_id == row.id)).all()
    assert len(nodes) == row.num_nodes and len(log) == row.num_simulations
    assert not any(check_store(store).values())
    store.close()


def test_the_same_question_asked_twice_is_two_searches(server: Running) -> None:
    ids = [ask(server, OTHERS[0]).search["id"] for _ in range(2)]
    until(lambda: all(stored(server, i) is not None for i in ids))
    first, second = (stored(server, i) for i in ids)
    assert first and second and first.problem_id == second.problem_id and first.id != second.id


def test_events_number_the_simulations_and_go_on_after_the_last_seen(
    slow_server: Running,
) -> None:
    figures = ask(slow_server, extra_body={"search": {"simulations": 6}}).search
    whole = events(slow_server, figures["id"])
    numbers = [n for name, n, _ in whole if name == "search.simulation"]
    assert numbers == [1, 2, 3, 4, 5, 6] and whole[0][0] == "search.started"
    assert whole[-1][:2] == ("search.final", 7) and whole[-1][2]["simulations"] == 6
    rest = events(slow_server, figures["id"], after=4)
    assert [n for name, n, _ in rest if name == "search.simulation"] == [5, 6]


def test_what_many_listen_to_is_written_once_and_looked_at_less_often() -> None:
    log = [Simulation(0, 0.5, 3), Simulation(2, 0.25, 6)]
    ticket: Any = SimpleNamespace(request_id="a", search=SimpleNamespace(log=log))
    feeds = Feeds()
    assert feeds.pause_s == PAUSE_S
    with feeds.listening(ticket) as feed, contextlib.ExitStack() as others:
        whole, made = feed.after(0)
        assert made == 2 and whole.count(b"event: search.simulation") == 2
        assert feed.after(1)[0] == feed.written[1] and whole.endswith(feed.written[1])
        assert feed.after(7) == (b"", 2)
        log.append(Simulation(1, 0.75, 9))
        assert feed.after(2) == (feed.written[2], 3)
        assert all(others.enter_context(feeds.listening(ticket)) is feed for _ in range(999))
        assert feeds.pause_s == LONGEST_S
    assert feeds.pause_s == PAUSE_S
    with feeds.listening(ticket) as again:
        assert again is not feed and again.written == []


def test_events_of_a_search_that_left_the_memory_come_from_the_store(
    slow_server: Running,
) -> None:
    figures = ask(slow_server, extra_body={"search": {"simulations": 5}}).search
    until(lambda: stored(slow_server, figures["id"]) is not None)
    before = events(slow_server, figures["id"], after=2)
    del slow_server.service.tickets[figures["id"]]
    after = events(slow_server, figures["id"], after=2)
    kept = [e for e in before if e[0] == "search.simulation"]
    assert [e for e in after if e[0] == "search.simulation"] == kept and len(kept) == 3
    assert after[-1][0] == "search.final" and after[-1][2]["simulations"] == 5
    shown = get(slow_server, f"/v1/searches/{figures['id']}?tree=true").json()
    assert shown["status"] == "done" and len(shown["tree"]) >= 5


def test_a_search_is_seen_while_it_runs_and_keeps_what_it_found_when_cancelled(
    slow_server: Running,
) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ask(slow_server)), daemon=True)
    thread.start()
    until(lambda: slow_server.service.worker.num_active == 1)
    ticket = list(slow_server.service.tickets.values())[-1]
    until(lambda: ticket.progress["simulations"] > 0)
    shown = get(slow_server, f"/v1/searches/{ticket.request_id}").json()
    assert shown["status"] == "running" and shown["progress"]["simulations"] > 0
    ended = httpx.post(f"{slow_server.url}/v1/searches/{ticket.request_id}/cancel", timeout=30)
    assert ended.json()["status"] == "cancelled"
    thread.join(10)
    assert found[0].choices[0].search["answer"] and found[0].search["status"] == "cancelled"
    until(lambda: stored(slow_server, ticket.request_id) is not None)
    row = stored(slow_server, ticket.request_id)
    assert row is not None and row.status == "failed" and "cancelled" in (row.error or "")


def test_searches_are_listed_the_newest_first(server: Running) -> None:
    ids = [ask(server, question).search["id"] for question in OTHERS[:3]]
    listed = get(server, "/v1/searches?limit=3").json()["data"]
    assert [s["id"] for s in listed] == ids[::-1]
    assert {s["status"] for s in listed} == {"done"}


@pytest.mark.parametrize("last", ["x", "-1", "1" * 20, "1.5"])
def test_a_last_event_id_that_is_no_number_is_refused(server: Running, last: str) -> None:
    figures = ask(server).search
    found = get(server, f"/v1/searches/{figures['id']}/events", headers={"last-event-id": last})
    assert found.status_code == 400 and "Last-Event-ID" in found.json()["error"]["message"]


@pytest.mark.parametrize("path", ["", "/events"])
def test_an_unknown_search_is_not_found(server: Running, path: str) -> None:
    found = get(server, f"/v1/searches/search-0{path}")
    assert found.status_code == 404 and found.json()["error"]["code"] == "search_not_found"
