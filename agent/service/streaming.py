"""Server-sent events: written by hand nowhere else."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

PING_S = 10.0
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: Any, name: str = "", id: int | None = None) -> bytes:
    """One event; JSON has no line breaks of its own."""
    head = (f"event: {name}\n" if name else "") + (f"id: {id}\n" if id is not None else "")
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def with_pings(parts: AsyncIterator[bytes], every_s: float = PING_S) -> AsyncIterator[bytes]:
    """The same with a comment whenever nothing came for so long, so that no proxy hangs up."""
    iterator = aiter(parts)
    pending: asyncio.Future[bytes] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(iterator))
            done, _ = await asyncio.wait({pending}, timeout=every_s)
            if not done:
                yield PING
                continue
            found, pending = pending, None
            try:
                yield found.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


def stream(parts: AsyncIterator[bytes], headers: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(
        with_pings(parts), media_type="text/event-stream", headers=HEADERS | headers
    )
