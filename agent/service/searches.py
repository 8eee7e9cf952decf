"""GET /v1/searches/{id}, its events, and POST .../cancel."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response

from agent.service import replies
from agent.service.chat import key_of, service_of
from agent.service.errors import ServiceError
from agent.service.feeds import Feeds, simulation_event
from agent.service.keys import Scope
from agent.service.service import Service, may_see
from agent.service.streaming import event, stream
from agent.service.tickets import ENDED, Standing, Ticket
from agent.service.worker import CANCELLED
from store.database import read_store
from store.inspection import read_search, read_tree
from store.served import find_served, served_simulations

router = APIRouter(prefix="/v1/searches")
TICK_S = 0.1
PROGRESS_S = 0.5
PART = 500
"""Simulations told in one go."""


def _unknown(name: str) -> ServiceError:
    return ServiceError(404, f"there is no search {name!r}", "search_not_found", "search_id")


def _found(service: Service, request: Request, name: str) -> Ticket:
    ticket = service.visible(key_of(request), name)
    if ticket is None:
        raise _unknown(name)
    return ticket


@router.get("")
async def listed(
    request: Request, limit: int = Query(50, ge=1, le=1000, description="the newest so many")
) -> Response:
    """Searches under way and those that ended lately, the newest first."""
    service = service_of(request)
    own = [
        {
            "id": ticket.request_id,
            "object": "search",
            "created": ticket.created,
            "status": str(ticket.standing),
            "question": ticket.question,
        }
        for ticket in reversed(list(service.tickets.values()))
        if service.visible(key_of(request), ticket.request_id) is not None
    ]
    return JSONResponse({"object": "list", "data": own[:limit]})


@router.get("/{search_id}")
async def show(
    search_id: str, request: Request, tree: bool = Query(False, description="all its nodes")
) -> Response:
    """How a search stands, or what it came to."""
    service = service_of(request)
    ticket = service.visible(key_of(request), search_id)
    if ticket is not None:
        is_ended = ticket.standing in ENDED
        found = {
            "id": ticket.request_id,
            "object": "search",
            "created": ticket.created,
            "status": str(ticket.standing),
            "question": ticket.question,
            "progress": ticket.progress,
        }
        if is_ended:
            kind = "full" if tree else "none"
            found["result"] = await asyncio.to_thread(replies.search_figures, ticket, kind)
        return JSONResponse(found)
    return JSONResponse(await asyncio.to_thread(_stored, service, request, search_id, tree))


def _stored(service: Service, request: Request, name: str, tree: bool) -> dict[str, Any]:
    """A search that this process no longer holds."""
    store = read_store(service.config.store)
    try:
        with store.session() as session:
            row = find_served(session, name)
        if row is None or not may_see(key_of(request), row.asked_by):
            raise _unknown(name)
        found: dict[str, Any] = {"id": name, "object": "search", "status": row.status}
        if row.error == CANCELLED:
            found["status"] = str(Standing.CANCELLED)
        found["result"] = read_search(store, row.id)
        if tree:
            found["tree"] = read_tree(store, row.id)
        return found
    finally:
        store.close()


@router.post("/{search_id}/cancel")
async def cancel(search_id: str, request: Request) -> Response:
    """End a search with what it found; one that has ended stays as it is."""
    service = service_of(request)
    ticket = _found(service, request, search_id)
    if ticket.owner != key_of(request).name and not key_of(request).may(Scope.ADMIN):
        raise _unknown(search_id)
    service.worker.cancel(ticket)
    while not ticket.future.done():
        await asyncio.sleep(TICK_S)
    return JSONResponse({"id": search_id, "object": "search", "status": str(ticket.standing)})


@router.get("/{search_id}/events")
async def events(
    search_id: str, request: Request, last_event_id: str | None = Header(None)
) -> Response:
    """The search's simulations as they are made; goes on after Last-Event-ID."""
    service = service_of(request)
    after = _place(last_event_id)
    ticket = service.visible(key_of(request), search_id)
    if ticket is not None:
        return stream(_live(service.feeds, ticket, after), {})
    found = await asyncio.to_thread(_stored, service, request, search_id, False)
    return stream(_kept(service, search_id, found, after), {})


def _place(given: str | None) -> int:
    if given is None or given == "":
        return 0
    if not (given.isascii() and given.isdigit()) or len(given) > 12:
        raise ServiceError(400, f"Last-Event-ID {given[:40]!r} is no number", "invalid_value")
    return int(given)


async def _live(feeds: Feeds, ticket: Ticket, after: int) -> AsyncIterator[bytes]:
    """An event a simulation, numbered from 1; progress in between has no number."""
    if not after:
        yield event({"id": ticket.request_id, "question": ticket.question}, "search.started")
    told: dict[str, Any] = {}
    waited = PROGRESS_S
    with feeds.listening(ticket) as feed:
        while True:
            is_ended = ticket.standing in ENDED
            part, made = feed.after(after)
            after = max(after, made)  # who comes with a larger number is told the end alone
            if waited >= PROGRESS_S and ticket.progress is not told:
                told, waited = ticket.progress, 0.0
                part += event(told, "search.progress")
            if part:
                yield part
            if is_ended:
                figures = await asyncio.to_thread(replies.search_figures, ticket)
                yield event(figures, "search.final", after + 1)
                return
            pause = feeds.pause_s
            await asyncio.sleep(pause)
            waited += pause


async def _kept(
    service: Service, name: str, found: dict[str, Any], after: int
) -> AsyncIterator[bytes]:
    """The same from the store."""

    def read(since: int) -> list[tuple[int, int, float, int]]:
        store = read_store(service.config.store)
        try:
            with store.session() as session:
                row = find_served(session, name)
                if row is None:
                    return []
                rows = served_simulations(session, row.id, since - 1, PART)
                return [(r.seq, r.leaf_ix, r.value, r.num_tokens) for r in rows]
        finally:
            store.close()

    while part := await asyncio.to_thread(read, after):
        for seq, leaf, value, tokens in part:
            yield simulation_event(seq + 1, leaf, value, tokens)
            after = seq + 1
    yield event(found["result"], "search.final", after + 1)
