"""Server-sent events: what they look like, and that a quiet stream stays open."""

import asyncio
from collections.abc import AsyncIterator

from agent.service.streaming import PING, event, with_pings


async def slowly(seconds: list[float]) -> AsyncIterator[bytes]:
    for i, each in enumerate(seconds):
        await asyncio.sleep(each)
        yield str(i).encode()


def test_a_comment_comes_whenever_nothing_else_does() -> None:
    async def read() -> list[bytes]:
        return [part async for part in with_pings(slowly([0.0, 0.35, 0.0]), 0.1)]

    parts = asyncio.run(read())
    assert [p for p in parts if p != PING] == [b"0", b"1", b"2"]
    assert parts[1] == PING and parts.count(PING) >= 2
    assert PING.startswith(b":") and PING.endswith(b"\n\n")


def test_who_stops_reading_ends_what_is_read() -> None:
    ended: list[str] = []

    async def parts() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    async def read() -> None:
        stream = with_pings(parts(), 0.05)
        assert await anext(stream) == b"first"
        assert await anext(stream) == PING
        await stream.aclose()

    asyncio.run(read())
    assert ended == ["ended"]


def test_an_event_is_lines_of_fields_and_its_data_one_of_them() -> None:
    told = event({"text": "a\nb\u2028c"}, "search.progress", 3)
    assert told == b'event: search.progress\nid: 3\ndata: {"text": "a\\nb\xe2\x80\xa8c"}\n\n'
    assert event([1]) == b"data: [1]\n\n"
