"""Which models can be asked, and what a promotion changes while a server runs."""

import threading
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest

from agent.service.catalogue import Catalogue
from scripts.bench import promotion
from store.database import open_store
from store.names import chosen_run
from tests.agent.service.conftest import Running, running
from tests.agent.service.test_chat import OTHERS, QUESTION, ask, asked
from tests.rows import a_run

pytestmark = pytest.mark.round


def promote(server: Running, folder: Path) -> str:
    return promotion.promote(server.config.store, server.service.newest().models.refs, folder)


def test_models_are_listed_by_round_and_by_their_newest(server: Running) -> None:
    listed = [m.id for m in server.client().models.list()]
    assert listed == ["latest", "latest:mcts", "default@0", "default@0:mcts"]
    one = server.client().models.retrieve("default@0:mcts")
    assert one.id == "default@0:mcts" and one.owned_by == "ratchet"
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("default@1")


def test_a_promotion_is_taken_up_between_requests_and_none_fails(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        first = server.service.newest().policy.version
        stop, failed, seen = threading.Event(), list[Any](), set[str]()

        def keep_asking(question: str) -> None:
            while not stop.is_set():
                try:
                    found = ask(server, question)
                    seen.add(found.search["model"])
                except Exception as error:
                    failed.append(error)

        threads = [threading.Thread(target=keep_asking, args=(q,)) for q in OTHERS[:4]]
        for thread in threads:
            thread.start()
        new = promote(server, tmp_path)
        assert server.service.catalogue.refresh()
        assert server.service.newest().policy.version == new != first
        assert ask(server).search["model"] == new
        assert ask(server, model="default@0:mcts").search["model"] == first
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed and {first, new} >= seen
        listed = [m.id for m in server.client().models.list()]
        assert listed[2:] == ["default@1", "default@1:mcts", "default@0", "default@0:mcts"]


def test_a_promotion_that_cannot_be_read_leaves_the_models(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        promote(server, tmp_path)
        (tmp_path / "promoted" / "model.safetensors").write_bytes(b"broken")
        catalogue: Catalogue = server.service.catalogue
        before = catalogue.latest
        assert not catalogue.refresh() and catalogue.latest == before
        assert ask(server).choices[0].search["answer"] == "38"


def test_the_run_of_a_service_is_not_taken_for_the_only_one(server: Running) -> None:
    ask(server)
    store = open_store(server.config.store)
    with store.session() as session:
        session.add(a_run(name="mine", config={}))
        session.flush()
        assert chosen_run(session, "default", False) == "mine"
        session.rollback()
    store.close()


def test_ready_says_what_is_served_and_metrics_count(server: Running) -> None:
    client = httpx.Client(base_url=server.url, timeout=30)
    ready = client.get("/health/ready").json()
    assert ready["status"] == "ready" and ready["model"] == "default@0"

    def searches() -> float:
        lines = client.get("/metrics").text.splitlines()
        found = [x for x in lines if x.startswith('ratchet_searches_total{status="done"}')]
        return float(found[0].split()[1]) if found else 0.0

    before = searches()
    server.client().chat.completions.create(model="latest:mcts", messages=asked(QUESTION))
    assert searches() == before + 1
    assert client.get("/version").json()["version"]


def test_paths_of_clients_do_not_name_figures(server: Running) -> None:
    """Else anybody could fill the memory with names."""
    client = httpx.Client(base_url=server.url, timeout=30)
    for i in range(5):
        client.get(f"/nothing-{i}")
    assert "nothing-" not in client.get("/metrics").text
