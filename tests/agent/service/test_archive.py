"""Every search that ended is written once, also when the store was away."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import func, select

from agent.service.archive import Archive
from search.errors import BusyError, ResourceError, StoreAwayError, StoreError, UsageError
from store.check import check_store
from store.database import Store, open_store
from store.recording import add_problems
from store.runs import all_runs
from store.schema import NodeRow, ProblemRow, Round, SearchRow
from store.served import cutoff_us, drop_served, served_problems
from tests.agent.service.conftest import Running, running, until
from tests.agent.service.test_chat import OTHERS, ask

pytestmark = pytest.mark.round


def num_rows(url: str, table: Any) -> int:
    store = open_store(url)
    with store.session() as session:
        found = session.scalar(select(func.count()).select_from(table))
    store.close()
    return int(found or 0)


def test_searches_wait_in_memory_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        archive = server.service.archive

        def away(*_: Any) -> Any:
            raise StoreAwayError("the store does not answer")

        monkeypatch.setattr(archive.store, "session", away)
        ids = [ask(server, q).search["id"] for q in OTHERS]
        until(lambda: archive.error != "")
        assert archive.num_waiting == len(OTHERS)
        monkeypatch.undo()
        until(lambda: archive.num_waiting == 0)
        store = open_store(server.config.store)
        with store.session() as session:
            written = set(session.scalars(select(SearchRow.request_id)))
        assert written == set(ids)
        assert not any(check_store(store).values())
        store.close()


def test_a_full_disk_is_waited_for_also_while_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        archive = server.service.archive

        def full(*_: Any) -> Any:
            raise ResourceError("the disk is full")

        monkeypatch.setattr(archive, "_beat", full)
        until(lambda: archive.error != "")
        found = ask(server, OTHERS[0])
        until(lambda: archive.num_waiting == 1)
        monkeypatch.undo()
        until(lambda: archive.num_written == 1)
        assert num_rows(server.config.store, SearchRow) == 1 and found.search["id"]


def test_too_many_unwritten_searches_are_told_before_another_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        monkeypatch.setattr(server.service.archive, "most_waiting", 0)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(server, OTHERS[0])
        assert caught.value.status_code == 503 and caught.value.code == "not_ready"


def test_a_service_that_ends_writes_what_waits_and_closes_its_round(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        for question in OTHERS[:3]:
            ask(server, question)
    store = open_store(server.config.store)
    with store.session() as session:
        rounds = session.scalars(select(Round)).all()
        assert [(r.stage, r.num_problems) for r in rounds] == [("kept", 3)]
        assert [run.name for run in all_runs(session)] == ["served"]
        assert all_runs(session)[0].owner == ""
    assert not any(check_store(store).values())
    store.close()


def test_a_second_service_of_the_same_run_is_refused(server: Running, monkeypatch: Any) -> None:
    import store.leases

    monkeypatch.setattr(store.leases, "owner_name", lambda: f"{server.url} 1 1")
    with pytest.raises(BusyError, match="being worked on"):
        Archive(server.config, server.service.newest)


def test_a_run_of_another_task_is_refused(server: Running) -> None:
    other = server.config.model_copy(update={"task": "stories"})
    with pytest.raises(UsageError, match="holds searches of task"):
        Archive(other, server.service.newest)


def test_old_searches_are_removed_with_all_their_rows(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        for question in OTHERS[:3]:
            ask(server, question)
        until(lambda: server.service.archive.num_written == 3)
    url = server.config.store
    store: Store = open_store(url)
    with store.session() as session:
        (run,) = all_runs(session)
        assert drop_served(session, run.id, cutoff_us(1)) == 0
        assert drop_served(session, run.id, cutoff_us(-1)) == 3
    assert not any(check_store(store).values())
    store.close()
    assert num_rows(url, SearchRow) == num_rows(url, NodeRow) == num_rows(url, ProblemRow) == 0


def test_questions_that_were_asked_are_had_once_and_learn_their_answer_later(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as server:
        for question in (*OTHERS[:3], OTHERS[0]):
            ask(server, question)
        until(lambda: server.service.archive.num_written == 4)
    store: Store = open_store(server.config.store)
    with store.session() as session:
        asked = served_problems(session, "expressions")
        assert [p.text for p in asked] == OTHERS[:3] and asked[0].answer is None
        assert served_problems(session, "stories") == []
        add_problems(session, "expressions", [replace(asked[0], answer="6")], None)
    with store.session() as session:
        assert [p.answer for p in served_problems(session, "expressions")] == ["6", None, None]
    store.close()


def test_a_search_that_the_store_refuses_does_not_stand_before_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path) as server:
        archive = server.service.archive
        write = archive._write

        def refusing(ticket: Any) -> None:
            if ticket.question == OTHERS[0]:
                raise StoreError("the store refused a statement")
            write(ticket)

        monkeypatch.setattr(archive, "_write", refusing)
        for question in OTHERS[:3]:
            ask(server, question)
        until(lambda: archive.num_written == 2)
        assert archive.num_waiting == 1
        monkeypatch.undo()
        until(lambda: archive.num_written == 3)
