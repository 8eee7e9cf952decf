"""What clients send: OpenAI's fields that are honoured, and the search's own."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.service.errors import bad_request, unsupported

EFFORTS: Mapping[str, int] = {
    "none": 1,
    "minimal": 4,
    "low": 16,
    "medium": 64,
    "high": 256,
    "xhigh": 1024,
    "max": 4096,
}
"""`reasoning_effort` to simulations."""
MAX_CHOICES = 8
MAX_MESSAGES = 512
MAX_TOKENS = 2_097_152

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
    "tool_choice": (None, "none"),
    "tools": (None, []),
    "verbosity": (None,),
    "web_search_options": (None,),
}
"""Parameters of OpenAI's that would change the answer and are not supported, each with the values
that change nothing."""


def readable(text: str, where: str) -> str:
    """The text. Raises ServiceError for what no store and no model can hold."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise bad_request(
            f"{where} has characters that are no text (NUL or half a pair)", param=where
        )
    return text


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Open(BaseModel):
    """Unknown fields are kept apart, to be named in a header."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class SearchKnobs(Strict):
    """Settings of one request's search; unset ones are the run's."""

    simulations: int | None = Field(None, ge=1, le=4096, description="finished texts, at most")
    max_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="tokens that the policy reads, at most"
    )
    max_depth: int | None = Field(None, ge=1, le=64, description="steps of a text, at most")
    c_puct: float | None = Field(None, ge=0, le=1000, description="weight of exploration")
    time_limit_s: float | None = Field(None, gt=0, le=600, description="seconds, at most")
    critics: dict[str, float] | None = Field(
        None, description="weights of value, process and outcome in the blend of scores"
    )
    return_tree: Literal["none", "summary", "full"] = Field(
        "none", description="the tree in the answer: its principal line, or all nodes"
    )


class StreamOptions(Open):
    include_usage: bool = Field(False, description="a last chunk with the usage")
    search_progress: bool = Field(False, description="lines of progress as reasoning")


class ResponseFormat(Open):
    type: str = Field(description="text or json_object")


class Message(Open):
    role: str = Field(max_length=64)
    content: str | list[dict[str, Any]] | None = None

    def text(self, place: int) -> str:
        """Its text parts joined. Raises ServiceError for a part of another kind."""
        if self.content is None or isinstance(self.content, str):
            return readable(self.content or "", f"messages[{place}].content")
        parts: list[str] = []
        for i, part in enumerate(self.content):
            where = f"messages[{place}].content[{i}]"
            if part.get("type") != "text":
                raise unsupported(where, f"is of type {part.get('type')!r}; this model reads text")
            if not isinstance(part.get("text"), str):
                raise bad_request(f"{where}.text must be a string", param=where)
            parts.append(readable(part["text"], where))
        return "".join(parts)


class Asking(Open):
    """What chat and plain completions have in common."""

    model: str = Field(min_length=1, max_length=256)
    n: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="different answers, the best first"
    )
    stop: str | list[str] | None = Field(None, description="texts that end the answer, 4 at most")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="of the answer")
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(found) > 4 or any(not s for s in found):
            raise bad_request("stop takes at most 4 texts, none of them empty", param="stop")
        return tuple(found)

    def check(self) -> list[str]:
        """Names of the fields that are not known. Raises ServiceError for unsupported ones."""
        extra = self.model_extra or {}
        for name, value in extra.items():
            if name in NEUTRAL and value not in NEUTRAL[name]:
                raise unsupported(name)
        if self.stream_options is not None and not self.stream:
            raise bad_request("stream_options is given without stream", param="stream_options")
        _ = self.stops
        return sorted(name for name in extra if name not in NEUTRAL)


class ChatRequest(Asking):
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    response_format: ResponseFormat | None = None
    search: SearchKnobs | None = None

    @property
    def longest(self) -> int | None:
        """Tokens of the answer, at most."""
        return self.max_completion_tokens or self.max_tokens

    def question(self) -> tuple[str, list[str]]:
        """The last user message, and which messages were not read."""
        places = [i for i, m in enumerate(self.messages) if m.role == "user"]
        if not places:
            raise bad_request("there is no message with role user", param="messages")
        last = places[-1]
        others = [f"messages[{i}]" for i in range(len(self.messages)) if i != last]
        return self.messages[last].text(last), others

    def check(self) -> list[str]:
        ignored = super().check()
        if self.top_logprobs and not self.logprobs:
            raise bad_request("top_logprobs needs logprobs to be true", param="top_logprobs")
        kind = self.response_format.type if self.response_format else "text"
        if kind not in ("text", "json_object"):
            raise unsupported("response_format", f"is {kind!r}; give text or json_object")
        return ignored


class CompletionsRequest(Asking):
    prompt: str | list[str] | list[int] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    max_tokens: int | None = Field(16, ge=0, le=MAX_TOKENS)

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt: texts, or token ids."""
        given = self.prompt
        if isinstance(given, str):
            return [readable(given, "prompt")]
        if given and all(isinstance(t, int) for t in given):
            return [[t for t in given if isinstance(t, int)]]
        found: list[str | list[int]] = []
        for i, prompt in enumerate(given):
            if isinstance(prompt, str):
                found.append(readable(prompt, f"prompt[{i}]"))
            elif isinstance(prompt, list):
                found.append(prompt)
        return found
