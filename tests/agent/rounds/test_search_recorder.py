"""A store that does not answer in mid-round: models go on, nothing is lost, nothing is twice."""

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds import failpoints
from agent.rounds.run import Improver
from agent.rounds.search_recorder import Recorder
from search.errors import StoreAwayError
from store import database
from store.database import open_store
from store.schema import Event
from store.spool import Spool
from tests.agent.rounds.small import SMALL, places
from tests.agent.rounds.test_round import contents, run_rounds

pytestmark = pytest.mark.round


class Lock:
    """Holds a SQLite file for itself, as a stuck process would. Cohorts' threads may release it at
    the same time: one of them does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._guard = threading.Lock()

    @property
    def is_held(self) -> bool:
        return self._connection is not None

    def hold(self) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN IMMEDIATE")
        self._connection = connection

    def release(self) -> None:
        with self._guard:
            if self._connection is not None:
                self._connection.execute("ROLLBACK")
                self._connection.close()
                self._connection = None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite gives up a lock after 50 ms instead of 30 s."""
    monkeypatch.setattr(database, "BUSY_S", 0.05)


def settings(folder: Path, policy: Path, **flags: Any) -> Any:
    config, _ = load_config(SMALL | places(folder) | {"policy": str(policy)} | flags)
    return config


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_away_for_a_while_changes_no_result(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("calm", "stormy"):
        (tmp_path / name).mkdir()
    run_rounds(tmp_path / "calm", checkpoint)
    lock = Lock(tmp_path / "stormy" / "store.db")
    spooled: list[int] = []
    passed: list[str] = []
    add, journal, commit = Spool.add, Recorder.journal, Recorder.commit

    def counted(self: Spool, entries: Any) -> None:
        spooled.append(len(entries))
        add(self, entries)

    def journal_without_store(self: Recorder, entries: Any) -> None:
        if "away" not in passed:
            passed.append("away")
            lock.hold()
        journal(self, entries)

    def commit_that_waits(self: Recorder, write: Any) -> None:
        commit(self, write)
        if lock.is_held:
            passed.append("waits")
            lock.release()

    monkeypatch.setattr(Spool, "add", counted)
    monkeypatch.setattr(Recorder, "journal", journal_without_store)
    monkeypatch.setattr(Recorder, "commit", commit_that_waits)
    monkeypatch.setattr(failpoints, "hit", passed.append)
    with Improver(settings(tmp_path / "stormy", checkpoint), Silent()).started() as improver:
        improver.run_round()
    assert spooled and "after-drain" in passed[passed.index("waits") :]
    assert contents(tmp_path / "stormy") == contents(tmp_path / "calm")
    assert not list((tmp_path / "stormy" / "checkpoints").glob("spool-*"))


@pytest.mark.usefixtures("impatient")
def test_searches_that_ended_meanwhile_are_committed_on_return(
    checkpoint: Path, tmp_path: Path
) -> None:
    with Improver(settings(tmp_path, checkpoint), Silent()).started() as improver:
        recorder = Recorder(improver.context(), lambda: False)
        lock = Lock(tmp_path / "store.db")
        committed: list[int] = []

        def commit(number: int) -> None:
            with improver.store.session(0.0) as session:
                improver.lease.guard(session)
                committed.append(number)

        lock.hold()
        for number in range(3):
            recorder.commit(lambda number=number: commit(number))  # type: ignore[misc]
        assert committed == []
        lock.release()
        recorder.finish()
        assert committed == [0, 1, 2]
        with improver.store.session() as session:
            event = session.scalars(select(Event).where(Event.kind == "store-away")).one()
            assert event.payload["searches"] == 3


@pytest.mark.usefixtures("impatient")
def test_a_full_spool_makes_the_searches_wait_and_patience_ends(
    checkpoint: Path, tmp_path: Path
) -> None:
    config = settings(tmp_path, checkpoint, **{"hosting.store_wait_s": 1.0})
    with Improver(config, Silent()).started() as improver:
        recorder = Recorder(improver.context(), lambda: False)
        recorder.spool.max_bytes = 1
        lock = Lock(tmp_path / "store.db")
        lock.hold()
        recorder.journal([(1, 0, {"ix": 0})])
        began = time.monotonic()
        with pytest.raises(StoreAwayError, match="spool") as caught:
            recorder.journal([(1, 1, {"ix": 1})])
        assert time.monotonic() - began > 0.5
        assert "same command" in caught.value.fix
        lock.release()
    with sqlite3.connect(recorder.spool.path) as raw:
        rows = raw.execute("SELECT search_id, seq, entry FROM entries").fetchall()
    assert [(i, n, json.loads(e)) for i, n, e in rows] == [(1, 0, {"ix": 0})]


def test_a_server_that_is_not_there_is_waited_for_as_long_as_patience_lasts(
    tmp_path: Path,
) -> None:
    pytest.importorskip("psycopg", reason="PostgreSQL's driver comes with the dev extra")
    store = database.Store(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
    for patience_s in (0.0, 0.7):
        began = time.monotonic()
        with pytest.raises(StoreAwayError), store.session(patience_s) as session:
            session.execute(text("SELECT 1"))
        assert time.monotonic() - began >= patience_s
    with pytest.raises(StoreAwayError):
        open_store(f"postgresql+psycopg://nobody@/none?host={tmp_path}")
