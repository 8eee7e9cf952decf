"""GET /v1/models, /health, /metrics and /version."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from agent.rounds.code_version import code_version
from agent.service.catalogue import LATEST, SEARCHED, Entry
from agent.service.chat import service_of
from agent.service.errors import ServiceError
from store.states import ActorState

router = APIRouter()


def _shown(entry: Entry, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": entry.created,
        "owned_by": "ratchet",
        "policy": dict(entry.versions).get("policy"),
    }


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """Each promoted policy, greedy and searched, and the name of the newest."""
    catalogue = service_of(request).catalogue
    data = [
        _shown(entry, name + kind)
        for entry, name in [(catalogue.latest, LATEST)]
        + [(e, e.name) for e in reversed(catalogue.entries)]
        for kind in ("", SEARCHED)
    ]
    return JSONResponse({"object": "list", "data": data})


@router.get("/v1/models/{model:path}")
async def model(model: str, request: Request) -> Response:
    entry, _ = service_of(request).catalogue.resolve(model)
    return JSONResponse(_shown(entry, model))


@router.get("/health/live")
async def live() -> Response:
    """Whether the process answers."""
    return JSONResponse({"status": "live"})


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Whether a request that comes now will be answered."""
    service = service_of(request)
    actors = await asyncio.to_thread(lambda: service.newest().hosts.health())
    dead = sorted(n for n, h in actors.items() if h.get("state") != ActorState.ALIVE)
    found = {
        "status": "ready" if service.is_ready and not dead else "not ready",
        "model": service.catalogue.latest.name,
        "draining": service.is_draining,
        "store": service.archive.error or "answers",
        "actors_away": dead,
    }
    return JSONResponse(found, 200 if found["status"] == "ready" else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    return PlainTextResponse(
        service_of(request).figures.text(), media_type="text/plain; version=0.0.4"
    )


@router.get("/version")
async def version() -> Response:
    return JSONResponse({"version": code_version()})


async def not_found(request: Request, error: Exception) -> Response:
    """Of a path that is none of ours."""
    wrong = ServiceError(404, f"there is no {request.url.path[:200]}", "not_found")
    return JSONResponse(wrong.body, 404)
