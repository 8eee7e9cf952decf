"""The application: routes, and every error in OpenAI's form."""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from agent.rounds.code_version import code_version
from agent.service import about, chat, completions, searches
from agent.service.errors import TYPES, ServiceError, as_service_error
from agent.service.gatekeeper import Gatekeeper
from agent.service.keys import Keys
from agent.service.service import Service
from agent.viewer.routes import Viewer
from search.errors import RatchetError
from store.database import read_store

log = logging.getLogger("ratchet")


CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
"""Of what the framework refuses by itself."""


def make_app(service: Service, keys: Keys) -> Gatekeeper:
    """The application of one service."""
    app = FastAPI(
        title="Ratchet",
        description="Searched answers over OpenAI's protocol.",
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for part in (chat, completions, searches, about):
        app.include_router(part.router)
    viewer = Viewer(
        lambda: read_store(service.config.store),
        code_version(),
        service.node_tokens,
        pictures=service.config.hosting.pictures_folder,
    )
    app.include_router(viewer.router("/view"))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ServiceError, _told)
    app.add_exception_handler(RatchetError, _told)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _told)
    # Outside of all that the framework adds: its own answer to a fault passes here, too.
    return Gatekeeper(app, service.config.serve, keys, service.figures)


async def _told(request: Request, error: Exception) -> Response:
    request_id = getattr(request.state, "request_id", "")
    found = as_service_error(error, request_id)
    if found.status >= 500 and not isinstance(error, ServiceError):
        log.error("%s failed", request_id, exc_info=error)
    body = found.body
    if found.status == 500 and request_id and request_id not in found.message:
        body["error"]["message"] += f" (request {request_id})"
    return JSONResponse(body, found.status, headers=found.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """A body of the wrong form: what is wrong with its first field."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "")
        wrong = ServiceError(400, f"the body is no JSON: {why}"[:500], "invalid_json")
        return JSONResponse(wrong.body, 400)
    place = [str(p) for p in first["loc"] if p not in ("body", "query", "header", "path")]
    param = ".".join(place)[:200] or None
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
    wrong = ServiceError(400, message[:500], "invalid_value", param)
    return JSONResponse(wrong.body, 400)


async def _plain(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself."""
    assert isinstance(error, HTTPException)
    status = error.status_code if error.status_code in TYPES else 400
    code = CODES.get(status, "invalid_request")
    what = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse(
        ServiceError(status, what, code).body, status, headers=dict(error.headers or {})
    )
