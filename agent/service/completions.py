"""POST /v1/completions: the policy's own continuation of a text, and log-probabilities of texts."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from agent.engine.requests import Completion, CompletionRequest
from agent.search_models import Models
from agent.service.chat import ignored_header, key_of, service_of
from agent.service.errors import ServiceError, as_service_error, bad_request
from agent.service.replies import Answer, Finish, Scored, usage
from agent.service.requests import CompletionsRequest
from agent.service.service import Service
from agent.service.streaming import DONE, event, stream
from search.randomness import derive_seed

router = APIRouter(prefix="/v1")
MAX_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class _Prompt:
    text: str
    tokens: tuple[int, ...]


@router.post("/completions")
async def complete(body: CompletionsRequest, request: Request) -> Response:
    """Continue texts as the policy would, without a search."""
    service = service_of(request)
    ignored = body.check()
    entry, is_searched = service.catalogue.resolve(body.model)
    if is_searched:
        raise bad_request(
            "completions are the policy's own texts: leave :mcts out, or ask /v1/chat/completions",
            param="model",
        )
    models = await asyncio.to_thread(service.catalogue.models_of, entry)
    prompts = await asyncio.to_thread(_prompts, models, body)
    owner = key_of(request).name
    asked = _asked(service, owner, models, body, prompts)
    found = asyncio.ensure_future(_choices(service, models, body, prompts, owner, asked))
    whole = {
        "id": f"cmpl-{uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model,
    }
    if body.stream:
        return stream(_streamed(body, whole, found), ignored_header(ignored))
    choices, used = await found
    return JSONResponse(
        whole | {"choices": choices, "usage": used}, headers=ignored_header(ignored)
    )


def _prompts(models: Models, body: CompletionsRequest) -> list[_Prompt]:
    """Raises ServiceError for a prompt that the policy cannot read."""
    given = body.prompts
    if not given or len(given) > MAX_PROMPTS:
        raise bad_request(f"give 1 to {MAX_PROMPTS} prompts", param="prompt")
    longest = models.policy.max_positions
    found: list[_Prompt] = []
    for i, prompt in enumerate(given):
        tokens = tuple(models.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        where = f"prompt[{i}]"
        bad = next((t for t in tokens if not 0 <= t < models.policy.vocab_size), None)
        if bad is not None:
            raise bad_request(f"token {bad} is not in the vocabulary", param=where)
        if not tokens:
            raise bad_request("the prompt has no tokens", param=where)
        if len(tokens) + (body.max_tokens or 0 if not body.echo else 0) > longest:
            raise bad_request(
                f"the prompt's {len(tokens)} tokens and max_tokens {body.max_tokens} are more than "
                f"the context of {longest}",
                "context_length_exceeded",
                where,
            )
        text = prompt if isinstance(prompt, str) else models.tokenizer.decode(tokens)
        found.append(_Prompt(text, tokens))
    return found


def _asked(
    service: Service,
    owner: str,
    models: Models,
    body: CompletionsRequest,
    prompts: Sequence[_Prompt],
) -> "Future[list[Completion]] | None":
    """The texts, queued; None where none are wanted. Raises ServiceError for a full queue."""
    service.meter.check(owner)
    longest = body.max_tokens if body.max_tokens is not None else 16
    seed = service.config.seed if body.seed is None else body.seed
    num = body.n or 1
    requests = [
        CompletionRequest(
            prompt.tokens,
            longest,
            1.0 if body.temperature is None else body.temperature,
            derive_seed(seed, "completion", k),
            top_p=body.top_p or 1.0,
        )
        for prompt in prompts
        for k in range(num)
        if longest
    ]
    return service.texts.submit(owner, models, requests) if requests else None


async def _choices(
    service: Service,
    models: Models,
    body: CompletionsRequest,
    prompts: Sequence[_Prompt],
    owner: str,
    asked: "Future[list[Completion]] | None",
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    num = body.n or 1
    written = await asyncio.wrap_future(asked) if asked is not None else []
    answers: list[tuple[_Prompt, Answer]] = []
    for i, prompt in enumerate(p for p in prompts for _ in range(num)):
        if not written:
            answers.append((prompt, Answer("", (), "length")))
            continue
        completion = written[i]
        if completion.error:
            raise ServiceError(500, completion.error, "generation_failed", may_retry=False)
        text = completion.generated
        service.figures.tokens.labels(kind="text").inc(len(text.tokens))
        finish: Finish = "length" if text.stop == "length" else "stop"
        shown = models.tokenizer.decode_after(prompt.tokens, text.tokens)
        answers.append((prompt, Answer(shown, text.tokens, finish)))
    choices = [
        await _choice(service, models, body, i, prompt, answer)
        for i, (prompt, answer) in enumerate(answers)
    ]
    service.meter.note(owner, sum(len(a.tokens) for _, a in answers))
    used = usage(sum(len(p.tokens) for p in prompts), [a for _, a in answers], 0)
    return choices, used.model_dump(mode="json", exclude_unset=True)


async def _choice(
    service: Service,
    models: Models,
    body: CompletionsRequest,
    index: int,
    prompt: _Prompt,
    answer: Answer,
) -> dict[str, Any]:
    answer = answer.cut(models.tokenizer, body.stops, None)
    choice: dict[str, Any] = {
        "index": index,
        "text": (prompt.text if body.echo else "") + answer.text,
        "finish_reason": answer.finish,
        "logprobs": None,
    }
    if body.logprobs is not None:
        num_given = 1 if body.echo else len(prompt.tokens)
        row = prompt.tokens + answer.tokens
        scored = await service.scored(models, row[:num_given], row[num_given:], body.logprobs)
        first = [prompt.tokens[0]] if body.echo else []
        choice["logprobs"] = await asyncio.to_thread(_told, models, first, scored)
    if body.return_token_ids:
        choice["token_ids"] = list(answer.tokens)
        choice["prompt_token_ids"] = list(prompt.tokens)
    return choice


def _told(models: Models, first: Sequence[int], scored: Sequence[Scored]) -> dict[str, Any]:
    """Log-probabilities in the form of completions; nothing comes before the first token."""
    tokens = [models.tokenizer.decode((t,)) for t in [*first, *(s.token for s in scored)]]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    nothing: list[None] = [None] * len(first)
    return {
        "tokens": tokens,
        "token_logprobs": [*nothing, *(s.logprob for s in scored)],
        "top_logprobs": [
            *nothing,
            *({models.tokenizer.decode((t,)): value for t, value in s.top} for s in scored),
        ],
        "text_offset": offsets,
    }


async def _streamed(
    body: CompletionsRequest, whole: dict[str, Any], found: "asyncio.Future[Any]"
) -> AsyncIterator[bytes]:
    try:
        choices, used = await found
    except Exception as error:
        yield event(as_service_error(error, whole["id"]).body)
        return
    finally:
        found.cancel()
    for choice in choices:
        yield event(whole | {"choices": [choice]})
    if body.stream_options is not None and body.stream_options.include_usage:
        yield event(whole | {"choices": [], "usage": used})
    yield DONE
