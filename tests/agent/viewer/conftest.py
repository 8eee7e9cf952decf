"""A store with real searches, some rows of which hold hostile text, and the viewer over it."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy import select, update

from agent.config.load import load_config
from agent.config.settings import Config
from agent.service.listening import Server, listening, settings_of, url_of
from agent.service.view_server import view_app
from store.database import open_store
from store.schema import NodeRow, NodeText, ProblemRow, SearchRow, SimulationRow
from tests.agent.service.conftest import running, until
from tests.agent.service.test_chat import OTHERS, ask

HOSTILE = (
    "<script>window.hurt=1</script>",
    "<img src=x onerror=window.hurt=1>",
    "javascript:window.hurt=1",
    "<svg onload=window.hurt=1>",
    "</script><script>window.hurt=1</script>",
    "{{ 7*7 }}${7*7}",
    '" onmouseover="window.hurt=1',
)


def start(config: Config) -> tuple[uvicorn.Server, threading.Thread, str]:
    bound = listening("127.0.0.1", 0)
    server = Server(settings_of(view_app(config)))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, f"{url_of(bound)}/view"


@pytest.fixture(scope="session")
def viewed_config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("viewed")
    with running(folder, critics__use_tool=False) as server:
        for question in OTHERS:
            ask(server, question)
        until(lambda: server.service.archive.num_written == len(OTHERS))
        config = server.config
    store = open_store(config.store)
    with store.session() as session:
        searches = list(session.scalars(select(SearchRow).order_by(SearchRow.id)))
        for row, text in zip(searches, HOSTILE, strict=False):
            row.answer = text
            session.execute(
                update(ProblemRow).where(ProblemRow.id == row.problem_id).values(text=text)
            )
            session.execute(update(NodeText).where(NodeText.search_id == row.id).values(text=text))
            session.execute(
                update(NodeRow).where(NodeRow.search_id == row.id).values(unsound_reason=text)
            )
    store.close()
    return config


@pytest.fixture(scope="session")
def view_url(viewed_config: Config) -> Iterator[str]:
    server, thread, url = start(viewed_config)
    yield url
    server.should_exit = True
    thread.join(10)


def tree_of(store_url: str, size: int) -> int:
    """A search whose tree has so many nodes, its log whole; its number."""
    store = open_store(store_url)
    with store.session() as session:
        old = session.scalars(select(SearchRow).order_by(SearchRow.id)).first()
        assert old is not None
        problem = ProblemRow(
            task="expressions", key=f"big-{size}", text="1+1", answer="2", origin="given", family=""
        )
        session.add(problem)
        session.flush()
        row = SearchRow(
            round_id=old.round_id,
            problem_id=problem.id,
            position=10_000 + size,
            seed=1,
            status="done",
            num_nodes=size,
            num_simulations=size - 1,
        )
        session.add(row)
        session.flush()
        parents = [None, *((i - 1) // 4 for i in range(1, size))]
        visits = [1] * size
        for i in range(size - 1, 0, -1):
            visits[parents[i]] += visits[i]  # type: ignore[index]
        depth = [0] * size
        for i in range(1, size):
            depth[i] = depth[parents[i]] + 1  # type: ignore[index]
        session.bulk_save_objects(
            [
                NodeRow(
                    search_id=row.id,
                    ix=i,
                    parent_ix=parents[i],
                    depth=depth[i],
                    visits=visits[i],
                    value_sum=visits[i] * 0.5,
                    own_evaluations=1,
                    prior=None if i == 0 else 0.25,
                    value=0.5,
                    stop=None if i == 0 else "boundary",
                    num_tokens=3,
                )
                for i in range(size)
            ]
        )
        session.bulk_save_objects(
            [NodeText(search_id=row.id, ix=i, text=f"step {i} of the tree\n") for i in range(size)]
        )
        session.bulk_save_objects(
            [
                SimulationRow(search_id=row.id, seq=i - 1, leaf_ix=i, value=0.5, num_tokens=3 * i)
                for i in range(1, size)
            ]
        )
        number = row.id
    store.close()
    return number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def config_of(store: str) -> Config:
    return load_config({"store": store})[0]
