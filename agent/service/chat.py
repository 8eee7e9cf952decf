"""POST /v1/chat/completions."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from agent.search_models import Models
from agent.service import replies
from agent.service.errors import ServiceError, as_service_error, bad_request
from agent.service.keys import Key
from agent.service.replies import Answer, Reply
from agent.service.requests import ChatRequest
from agent.service.service import Remembered, Service, Written
from agent.service.streaming import DONE, event, stream
from agent.service.tickets import Standing, Ticket

log = logging.getLogger("ratchet")

router = APIRouter(prefix="/v1")
POLL_S = 0.2
"""Between two looks whether the client is still there."""
PROGRESS_S = 0.5
MAX_REMEMBERED = 256
"""Idempotency keys whose searches can be had again, the newest."""


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def key_of(request: Request) -> Key:
    found: Key = request.state.key
    return found


def ignored_header(names: Sequence[str]) -> dict[str, str]:
    """Names of what was not read; those of clients may hold anything, so only plain ones go in."""
    plain = [n for n in names if n.isascii() and n.isprintable() and len(n) <= 64][:32]
    return {"x-ratchet-ignored": ", ".join(plain)} if plain else {}


@router.post("/chat/completions")
async def chat(body: ChatRequest, request: Request) -> Response:
    """Answer the last user message: by search where the model's name ends in `:mcts`."""
    service, key = service_of(request), key_of(request)
    ignored = body.check()
    entry, is_searched = service.catalogue.resolve(body.model)
    question, others = body.question()
    if not question.strip():
        raise bad_request("the last user message is empty", param="messages")
    ignored += others
    models = await asyncio.to_thread(service.catalogue.models_of, entry)
    asking = _Asking(service, key, body, models, question)
    if is_searched:
        once = request.headers.get("idempotency-key")
        asking.ticket = await asyncio.to_thread(_ticket, asking, once)
        ignored += [n for n in ("temperature", "top_p") if getattr(body, n) is not None]
    elif body.search is not None or body.reasoning_effort not in (None, "none"):
        name = "search" if body.search is not None else "reasoning_effort"
        raise bad_request(f"{name} needs a model whose name ends in :mcts", param=name)
    else:
        # Before a stream begins: what is wrong with the question has a status of its own.
        asking.written = await asyncio.to_thread(service.submit_texts, key, models, body, question)
    headers = ignored_header(ignored)
    if asking.ticket is not None:
        headers["x-ratchet-search"] = asking.ticket.request_id
    if body.stream:
        return stream(_streamed(asking), headers)
    reply = await _watched(asking, request)
    return JSONResponse(reply.whole(), headers=headers)


class _Asking:
    """One request under way."""

    def __init__(
        self, service: Service, key: Key, body: ChatRequest, models: Models, question: str
    ) -> None:
        self.service = service
        self.key = key
        self.body = body
        self.models = models
        self.question = question
        self.id = f"chatcmpl-{uuid4().hex}"
        self.created = int(time.time())
        self.ticket: Ticket | None = None
        self.written: Written | None = None

    async def reply(self) -> Reply:
        """Wait for the end, and put the answer together. Raises ServiceError."""
        body, models, ticket = self.body, self.models, self.ticket
        search, num_searched = None, 0
        if ticket is None:
            assert self.written is not None
            answers = await self.service.read_texts(self.written)
            prompt = self.written.root.tokens
        else:
            await ended(ticket)
            if ticket.standing is Standing.CANCELLED and not ticket.search.candidates:
                raise ServiceError(409, "the search was cancelled", "cancelled", may_retry=False)
            # Thousands of answers take a while to compare: other requests must not wait for that.
            answers = await asyncio.to_thread(replies.searched_answers, ticket, body.n or 1)
            prompt = ticket.search.root.state.tokens
            tree = body.search.return_tree if body.search else "none"
            search = await asyncio.to_thread(replies.search_figures, ticket, tree)
            num_searched = ticket.search.budget.tokens
        finished = [await self._finished(answer, prompt) for answer in answers]
        return Reply(
            self.id,
            body.model,
            finished,
            replies.usage(len(prompt), finished, num_searched),
            models.tokenizer,
            prompt,
            search,
            body.return_token_ids,
            self.created,
        )

    async def _finished(self, answer: Answer, prompt: tuple[int, ...]) -> Answer:
        body, models = self.body, self.models
        answer = answer.cut(models.tokenizer, body.stops, body.longest)
        if body.logprobs:
            found = await self.service.scored(models, prompt, answer.tokens, body.top_logprobs or 0)
            answer = replace(answer, scored=found)
        is_json = body.response_format is not None and body.response_format.type == "json_object"
        return answer.as_json() if is_json else answer


def _ticket(asking: _Asking, once: str | None) -> Ticket:
    """The request's search: a new one, or that of the same Idempotency-Key."""
    if once:
        with asking.service.remembering:
            return _ticket_once(asking, once)
    ticket = asking.service.open_search(asking.key, asking.models, asking.body, asking.question)
    asking.service.submit([ticket])
    return ticket


def _ticket_once(asking: _Asking, once: str) -> Ticket:
    service, body = asking.service, asking.body
    place = (asking.key.name, once)
    raw = body.model_dump_json(exclude={"stream", "stream_options"})
    digest = hashlib.sha256(raw.encode()).hexdigest()
    known = service.remembered.get(place)
    if known is not None and known.digest != digest:
        raise ServiceError(
            409,
            "this Idempotency-Key came with another request",
            "idempotency_conflict",
            may_retry=False,
        )
    if known is not None and not _is_in_vain(known.ticket):
        return known.ticket
    ticket = service.open_search(asking.key, asking.models, body, asking.question)
    ticket.is_shared = True
    service.submit([ticket])
    service.remembered[place] = Remembered(digest, ticket)
    while len(service.remembered) > MAX_REMEMBERED:
        service.remembered.popitem(last=False)
    return ticket


def _is_in_vain(ticket: Ticket) -> bool:
    """Whether a search ended without anything: who asks again wants another one."""
    if ticket.standing is Standing.CANCELLED:
        return not ticket.search.candidates
    return ticket.standing is Standing.FAILED


async def ended(ticket: Ticket) -> None:
    """Wait for a search's end. Raises what it failed of."""
    while not ticket.future.done():
        await asyncio.wait({asyncio.wrap_future(_shielded(ticket))}, timeout=60)
    ticket.future.result()


def _shielded(ticket: Ticket) -> Any:
    """A future of its own: who stops waiting must not cancel it for others."""
    from concurrent.futures import Future

    mine: Future[None] = Future()

    def passed(_: Any) -> None:
        if mine.set_running_or_notify_cancel():
            mine.set_result(None)

    ticket.future.add_done_callback(passed)
    return mine


def give_up(asking: _Asking) -> None:
    """The client is gone: nobody pays for what nobody reads, unless others may ask for it."""
    if asking.ticket is not None and not asking.ticket.is_shared:
        asking.service.worker.cancel(asking.ticket)


async def _watched(asking: _Asking, request: Request) -> Reply:
    """The reply, unless the client hangs up first."""
    task = asyncio.ensure_future(asking.reply())
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=POLL_S)
            if done:
                return task.result()
            if await request.is_disconnected():
                raise ServiceError(408, "the client hung up", "client_closed_request")
    finally:
        if not task.done():
            give_up(asking)
            task.cancel()


async def _streamed(asking: _Asking) -> AsyncIterator[bytes]:
    """Chunks of the answer; errors after the start are events, too."""
    body = asking.body
    options = body.stream_options
    num = body.n or 1
    task = asyncio.ensure_future(asking.reply())
    try:
        yield event(replies.first_chunk(asking.id, body.model, asking.created, num))
        last = ""
        while True:
            done, _ = await asyncio.wait({task}, timeout=PROGRESS_S)
            if done:
                break
            if options is not None and options.search_progress and asking.ticket is not None:
                line = _progress_line(asking.ticket)
                if line and line != last:
                    last = line
                    yield event(
                        replies.reasoning_chunk(asking.id, body.model, asking.created, line)
                    )
        try:
            reply = task.result()
        except Exception as error:
            if not isinstance(error, ServiceError):
                log.error("%s failed", asking.id, exc_info=error)
            yield event(as_service_error(error, asking.id).body)
            return
        for part in replies.answer_chunks(reply, options is not None and options.include_usage):
            yield event(part)
        yield DONE
    finally:
        if not task.done():
            give_up(asking)
            task.cancel()


def _progress_line(ticket: Ticket) -> str:
    """The principal line, if a text was found."""
    steps = ticket.progress.get("steps") or []
    told = f"{ticket.progress.get('simulations', 0)} simulations"
    return f"{told}: {' | '.join(steps)}\n" if steps else ""
