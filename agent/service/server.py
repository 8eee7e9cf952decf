"""One process that listens: uvicorn around the application."""

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from agent.config.settings import Config
from agent.open_models import open_models
from agent.service.app import make_app
from agent.service.gatekeeper import is_loopback
from agent.service.keys import Keys
from agent.service.service import Service
from search.errors import ResourceError, UsageError

MAX_HEADER = 16_384
KEEP_ALIVE_S = 75

Say = Callable[[str], None]


def opened_keys(config: Config) -> Keys:
    """The keys of the settings. Raises UsageError for a door to others without any."""
    serve = config.serve
    keys = Keys(Path(serve.keys).expanduser() if serve.keys else None)
    if not keys and not is_loopback(serve.host):
        raise UsageError(
            f"{serve.host} can be reached by others, and no key is set",
            "make one with `ratchet keys add NAME`, or listen at 127.0.0.1",
        )
    return keys


def listening(config: Config) -> socket.socket:
    """A bound socket. Raises ResourceError where the port is taken, before any model is loaded."""
    serve = config.serve
    try:
        found = socket.getaddrinfo(serve.host, serve.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise ResourceError(
            f"cannot listen at {serve.host} port {serve.port}: {error.strerror or error}",
            "choose another with --port, or stop what listens there",
        ) from error
    return bound


def run(config: Config, say: Say, as_json: bool) -> int:
    """Serve until a signal; what is under way ends first. The exit code that tells the signal."""
    signal = 0
    keys = opened_keys(config)
    bound = listening(config)
    host, port = bound.getsockname()[:2]
    with contextlib.closing(bound), open_models(config) as models:
        for ref in models.models.refs.values():
            models.hosts.load(ref)
        service = Service(models, config)
        try:
            settings = uvicorn.Config(
                make_app(service, keys),
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(config.serve.drain_s) or None,
                h11_max_incomplete_event_size=MAX_HEADER,
                http="h11",
            )
            server = _Server(settings, service)
            url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
            _announce(service, url, bool(keys), say, as_json)
            server.run(sockets=[bound])
            signal = server.signal
        finally:
            service.close()
    if as_json:
        print(json.dumps({"event": "done", "status": "stopped"}), flush=True)
    return 128 + signal if signal else 0


class _Server(uvicorn.Server):
    """Refuses new work as soon as a signal comes, while answers under way end."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    signal = 0
    """The first one that came."""

    def handle_exit(self, sig: int, frame: object) -> None:
        self.force_exit = bool(self.signal)
        self.signal = self.signal or sig
        self.service.is_draining = True
        self.should_exit = True


def _announce(service: Service, url: str, has_keys: bool, say: Say, as_json: bool) -> None:
    model = service.catalogue.latest.name
    if as_json:
        launch = {"event": "launch", "url": url, "pid": os.getpid(), "model": model}
        print(json.dumps(launch), flush=True)
        return
    say(f"serving {model} at {url} (models: latest, latest:mcts)")
    say(f"searches are kept in run {service.config.serve.run} of {service.config.shown_store}")
    if not has_keys:
        say("no key is needed on this machine")


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
