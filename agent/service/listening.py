"""The socket of a server, and its end by a signal."""

import math
import socket

import uvicorn

from search.errors import ResourceError

MAX_HEADER = 16_384
KEEP_ALIVE_S = 75
BACKLOG = 2048


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ResourceError where the port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)  # who was told the address may come before the first accept
    except OSError as error:
        raise ResourceError(
            f"cannot listen at {host} port {port}: {error.strerror or error}",
            "choose another with --port, or stop what listens there",
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """Keeps the signal that ended it, and does not raise it again: the caller says what follows."""

    signal = 0
    """The first one that came."""

    def handle_exit(self, sig: int, frame: object) -> None:
        self.force_exit = bool(self.signal)
        self.signal = self.signal or sig
        self.should_exit = True

    @property
    def exit_code(self) -> int:
        """That of a process which the signal ended; 0 without one."""
        return 128 + self.signal if self.signal else 0


def settings_of(app: object, drain_s: float = 0.0) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(drain_s),
        h11_max_incomplete_event_size=MAX_HEADER,
        http="h11",
    )
