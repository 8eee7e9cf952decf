"""The outermost layer: request ids, host names, origins, keys, sizes, and what is measured.

Plain ASGI, so that streams pass through it as they are.
"""

import json
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.config.settings import ServeSettings
from agent.service import sign_in
from agent.service.errors import ServiceError, as_service_error
from agent.service.figures import Figures
from agent.service.keys import NOBODY, Key, Keys
from agent.service.keys import Scope as KeyScope

OPEN_PATHS = ("/health/live",)
"""What anybody may ask."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")

log = logging.getLogger("ratchet")


def is_loopback(host: str) -> bool:
    return host in LOOPBACK


def scope_of(path: str) -> KeyScope:
    """What a key must be allowed for a path."""
    if path.startswith(("/metrics", "/docs", "/openapi")):
        return KeyScope.ADMIN
    if path.startswith("/view"):
        return KeyScope.INSPECT
    return KeyScope.INFER


class Gatekeeper:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, keys: Keys, figures: Figures) -> None:
        self.app = app
        self.settings = settings
        self.keys = keys
        self.figures = figures
        own = (*LOOPBACK, settings.host.lower(), f"[{settings.host.lower()}]")
        self.names = {n.lower() for n in settings.names} or set(own)
        self.max_body = int(settings.body_mib * 2**20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = _joined(scope["headers"])
        request_id = f"req-{uuid4().hex}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        answered = _Answered(send, request_id, self.figures, scope)
        try:
            self._check_names(scope, headers)
            if self.keys.is_required and scope["path"].startswith("/view"):
                answer = await self._signed_in(scope, receive, headers)
                if answer is not None:
                    await answer(scope, receive, answered)
                    return
            state["key"] = self._admitted(scope, headers)
            limited = _Limited(receive, self.max_body, headers)
            await self.app(scope, limited, answered)
        except ServiceError as error:
            if not answered.is_started:
                await refuse(answered, error)
        except Exception as error:
            # What the application answered with an error of its own it raises once more.
            if not answered.is_started:
                log.error("%s failed", request_id, exc_info=error)
                await refuse(answered, as_service_error(error, request_id))
        finally:
            answered.done()

    async def _signed_in(
        self, scope: Scope, receive: Receive, headers: dict[str, str]
    ) -> Response | None:
        """What a browser is answered that has no key yet; None for one that has."""
        if scope["path"] == sign_in.PATH and scope["method"] == "POST":
            return await sign_in.sign_in(Request(scope, receive), self.keys)
        if "authorization" not in headers:
            key = sign_in.cookie_key(headers.get("cookie", ""))
            if not key and scope["path"] not in sign_in.OPEN[1:]:
                return sign_in.form()
            headers["authorization"] = f"Bearer {key}"
            found = self.keys.find(key) if key else None
            if found is None and scope["path"] not in sign_in.OPEN[1:]:
                return sign_in.form(sign_in.WRONG)
        return None

    def _check_names(self, scope: Scope, headers: dict[str, str]) -> None:
        """Raises ServiceError for a host that is not ours, or a page of another origin."""
        host = _name_of(headers.get("host", ""))
        if host not in self.names:
            raise ServiceError(403, f"this server is not {host!r}", "unknown_host")
        origin = headers.get("origin")
        if origin is not None and origin != f"{scope['scheme']}://{headers.get('host', '')}":
            raise ServiceError(403, f"pages of {origin!r} may not ask here", "unknown_origin")

    def _admitted(self, scope: Scope, headers: dict[str, str]) -> Key:
        """Who asks. Raises ServiceError for who may not."""
        path = scope["path"]
        if path in OPEN_PATHS or path in sign_in.OPEN:
            return NOBODY
        if not self.keys.is_required:
            return NOBODY
        kind, _, given = headers.get("authorization", "").partition(" ")
        key = self.keys.find(given.strip()) if kind.lower() == "bearer" and given else None
        if key is None:
            raise ServiceError(
                401,
                "no valid key: send the header `Authorization: Bearer KEY`",
                "invalid_api_key",
            )
        wanted = scope_of(path)
        if not key.may(wanted):
            raise ServiceError(
                403, f"key {key.name!r} has not the scope {wanted}", "insufficient_scope"
            )
        return key


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name. One that comes twice is both, which no name, origin or key is like:
    whoever forwards a request might have looked at the other one."""
    found: dict[str, str] = {}
    for name, value in pairs:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _name_of(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


class _Limited:
    """Receives no more of a body than is allowed."""

    def __init__(self, receive: Receive, most: int, headers: dict[str, str]) -> None:
        self.receive = receive
        self.most = most
        self.num_bytes = 0
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise ServiceError(413, self._message, "request_too_large")

    @property
    def _message(self) -> str:
        return f"the request has more than {self.most} bytes"

    async def __call__(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.request":
            self.num_bytes += len(message.get("body", b""))
            if self.num_bytes > self.most:
                # The framework makes a 400 of any other error while it reads a body.
                raise HTTPException(413, self._message)
        return message


class _Answered:
    """Sends, adds the request's id, and measures."""

    def __init__(self, send: Send, request_id: str, figures: Figures, scope: Scope) -> None:
        self.send = send
        self.request_id = request_id
        self.figures = figures
        self.scope = scope
        self.began = time.monotonic()
        self.is_started = False
        self.status = 499
        """What the log says of a request that its client gave up."""
        self._has_body = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        elif message["type"] == "http.response.body" and not self._has_body:
            self._has_body = True
            self.figures.first_byte_s.labels(route=self.route).observe(self.seconds)
        await self.send(message)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def route(self) -> str:
        """The route's pattern: what clients write into a path must not name figures."""
        route = self.scope.get("route")
        return getattr(route, "path", "") or "none"

    def done(self) -> None:
        self.figures.requests.labels(route=self.route, code=str(self.status)).inc()
        self.figures.request_s.labels(route=self.route).observe(self.seconds)
        log.debug("%s %s %s %d", self.request_id, self.scope["method"], self.route, self.status)


async def refuse(send: Any, error: ServiceError, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer with an error."""
    body = json.dumps(error.body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((k.encode(), v.encode()) for k, v in error.headers.items()),
        *more,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
