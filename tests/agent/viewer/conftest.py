"""A store with real searches, some rows of which hold hostile text, and the viewer over it."""

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from sqlalchemy import select, update

from agent.config.settings import Config
from agent.service.listening import Server, listening, settings_of, url_of
from agent.service.view_server import view_app
from store.database import open_store
from store.schema import NodeRow, NodeText, ProblemRow, SearchRow
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
