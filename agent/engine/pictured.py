"""Requests whose pictures stand among their tokens."""

from dataclasses import replace
from typing import TypeVar, cast

from agent.engine.prefix_cache import Prefix
from agent.engine.requests import CompletionRequest, OptionRequest, ScoreRequest
from agent.networks.pictures import Pictures

R = TypeVar("R", CompletionRequest, OptionRequest, ScoreRequest, Prefix)


def with_pictures(request: R, pictures: Pictures) -> R:
    """The request with pictures' ids in the places of its placeholders, and nothing attached.
    Raises TaskError where these are not so many."""
    digests = request.attachments
    if isinstance(request, Prefix):
        placed = pictures.placed(request.tokens, digests)
        return cast(R, Prefix(placed))
    if isinstance(request, ScoreRequest):
        return replace(request, tokens=pictures.placed(request.tokens, digests), attachments=())
    return replace(request, prefix=pictures.placed(request.prefix, digests), attachments=())


def without_pictures(request: CompletionRequest, vocab_size: int) -> CompletionRequest:
    """What of a text one can read who sees no pictures."""
    if max(request.prefix) < vocab_size:
        return request
    return replace(request, prefix=tuple(t for t in request.prefix if t < vocab_size))
