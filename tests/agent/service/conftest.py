"""A real server on a free port of this machine, in a thread, with the embedded models."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from agent.config.load import load_config
from agent.config.settings import Config
from agent.open_models import base_refs, models_over
from agent.service.app import make_app
from agent.service.keys import Keys
from agent.service.listening import listening
from agent.service.service import Service

Opened = Callable[..., contextlib.AbstractContextManager["Running"]]


@dataclass(frozen=True)
class Running:
    """A server that listens."""

    url: str
    service: Service
    config: Config
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, key: str = "none") -> Any:
        """OpenAI's own, one for each key; closed with the server."""
        from openai import OpenAI

        if key not in self.clients:
            self.clients[key] = OpenAI(
                base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60
            )
        return self.clients[key]


@contextlib.contextmanager
def running(folder: Path, keys: Keys | None = None, **flags: Any) -> Iterator[Running]:
    config, _ = load_config(
        {
            "hosting.hosting": "inline",
            "store": f"sqlite:///{folder}/ratchet.db",
            "serve.port": 0,
            "serve.drain_s": 10,
        }
        | {key.replace("__", "."): value for key, value in flags.items()}
    )
    models = models_over(config, base_refs(config))
    bound = listening(config.serve.host, config.serve.port)
    service = Service(models, config)
    settings = uvicorn.Config(
        make_app(service, keys or Keys(None)), log_level="error", access_log=False, http="h11"
    )
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield (found := Running(f"http://127.0.0.1:{bound.getsockname()[1]}", service, config))
        for client in found.clients.values():
            client.close()
    finally:
        server.should_exit = True
        thread.join(15)
        service.close()
        models.hosts.close()
        bound.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Without its tool and with thousands of simulations a search takes many seconds."""
    with running(
        tmp_path_factory.mktemp("slow"),
        critics__use_tool=False,
        search__simulations=4096,
        search__max_tokens=1_000_000,
        search__stop_decided=False,
        serve__active=2,
        serve__waiting=2,
        serve__queue_s=600,
    ) as found:
        yield found


def until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something is so; the test's own time-out ends what never is."""
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    assert is_so()
