"""One process that listens: uvicorn around the application."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from agent.config.settings import Config
from agent.open_models import open_models
from agent.service.app import make_app
from agent.service.gatekeeper import is_loopback
from agent.service.keys import Keys
from agent.service.listening import Server, listening, settings_of, url_of
from agent.service.service import Service
from search.errors import UsageError

Say = Callable[[str], None]


def opened_keys(config: Config) -> Keys:
    """The keys of the settings. Raises UsageError for a door to others without any."""
    serve = config.serve
    keys = Keys(Path(serve.keys).expanduser() if serve.keys else None)
    if serve.keys and not keys:
        raise UsageError(
            f"{serve.keys} holds no key", "make one with `ratchet keys add NAME --file FILE`"
        )
    if not keys and not is_loopback(serve.host):
        raise UsageError(
            f"{serve.host} can be reached by others, and no key is set",
            "make one with `ratchet keys add NAME`, or listen at 127.0.0.1",
        )
    return keys


def run(config: Config, say: Say, as_json: bool) -> int:
    """Serve until a signal; what is under way ends first. The exit code that tells the signal."""
    keys = opened_keys(config)
    bound = listening(config.serve.host, config.serve.port)
    with contextlib.closing(bound), open_models(config) as models:
        for ref in models.models.refs.values():
            models.hosts.load(ref)
        service = Service(models, config)
        try:
            server = _Draining(make_app(service, keys), service)
            _announce(service, url_of(bound), bool(keys), say, as_json)
            server.run(sockets=[bound])
        finally:
            service.close()
    if as_json:
        print(json.dumps({"event": "done", "status": "stopped"}), flush=True)
    return server.exit_code


class _Draining(Server):
    """Refuses new work as soon as a signal comes, while answers under way end."""

    def __init__(self, app: object, service: Service) -> None:
        super().__init__(settings_of(app, service.config.serve.drain_s))
        self.service = service

    def handle_exit(self, sig: int, frame: object) -> None:
        self.service.drain()
        super().handle_exit(sig, frame)


def _announce(service: Service, url: str, has_keys: bool, say: Say, as_json: bool) -> None:
    model = service.catalogue.latest.name
    if as_json:
        launch = {"event": "launch", "url": f"{url}/v1", "pid": os.getpid(), "model": model}
        print(json.dumps(launch), flush=True)
        return
    say(f"serving {model} at {url}/v1 (models: latest, latest:mcts); pages at {url}/view")
    say(f"searches are kept in run {service.config.serve.run} of {service.config.shown_store}")
    if not has_keys:
        say("no key is needed on this machine")


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
