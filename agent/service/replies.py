"""What clients are answered: OpenAI's objects, with the search's own figures beside the usage."""

import json
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice, ChoiceLogprobs
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob, TopLogprob
from openai.types.completion_usage import CompletionTokensDetails

from agent.engine.tokenizer import Tokenizer
from agent.service.tickets import Standing, Ticket
from search.candidates import Candidate, grouped, ranked
from search.mcts import Search

Finish = Literal["stop", "length"]
STOP_REASONS = {"seconds": "deadline"}
"""Of a search, in the words of the protocol where they differ."""
SLICE = 24
"""Characters of one chunk of a streamed answer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A token with its log-probability, and the likeliest ones in its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Answer:
    """One choice."""

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    answer: str | None = None
    """The final answer alone, as the task reads it."""
    figures: dict[str, Any] = field(default_factory=dict)
    scored: tuple[Scored, ...] | None = None

    def cut(self, tokenizer: Tokenizer, stops: Sequence[str], longest: int | None) -> "Answer":
        """The same up to the first stop text, and no longer than so many tokens."""
        text, tokens, finish = self.text, self.tokens, self.finish
        if longest is not None and len(tokens) > longest:
            tokens, finish = tokens[:longest], "length"
            text = tokenizer.decode(tokens)
        ends = [at for stop in stops if (at := text.find(stop)) >= 0]
        if ends:
            text, finish = text[: min(ends)], "stop"
            tokens = _covering(tokenizer, tokens, text)
        return Answer(text, tokens, finish, self.answer, self.figures)

    def as_json(self) -> "Answer":
        """The same as one JSON object."""
        steps = [line for line in self.text.splitlines() if line.strip()]
        text = json.dumps({"answer": self.answer, "steps": steps}, ensure_ascii=False)
        return Answer(text, self.tokens, self.finish, self.answer, self.figures, self.scored)


def _covering(tokenizer: Tokenizer, tokens: tuple[int, ...], text: str) -> tuple[int, ...]:
    """The first tokens, as few as hold the text; an answer leaves out newlines before it."""
    num = bisect_left(
        range(len(tokens)),
        len(text),
        key=lambda k: len(tokenizer.decode(tokens[:k]).lstrip("\n")),
    )
    return tokens[:num]


def searched_answers(ticket: Ticket, num: int) -> list[Answer]:
    """Texts with different answers that the search found, the best first; one without a text when
    it found none."""
    search = ticket.search
    late = search.stop_reason == "seconds"
    pairs = ranked(search.candidates, search.settings.final, search.same)
    groups = grouped([c.rollout.answer for c, _ in pairs], search.same)
    total = sum(weight for _, weight in pairs)
    found: list[Answer] = []
    for i, (candidate, _) in enumerate(pairs):
        if groups[i] != i or len(found) == num:
            continue
        behind = sum(w for (_, w), g in zip(pairs, groups, strict=True) if g == i)
        share = behind / total if total > 0 else None
        found.append(_candidate_answer(candidate, share, "length" if late else "stop"))
    return found or [Answer("", (), "length")]


def _candidate_answer(candidate: Candidate, share: float | None, finish: Finish) -> Answer:
    rollout = candidate.rollout
    options = rollout.state.options
    return Answer(
        "".join(rollout.state.steps).strip("\n"),
        tuple(t for option in options for t in option.tokens),
        finish,
        rollout.answer,
        {
            "value": candidate.score,
            "confidence": share,
            "answer": rollout.answer,
            "is_sound": rollout.is_sound,
        },
    )


def search_figures(ticket: Ticket, tree: str = "none") -> dict[str, Any]:
    """What a search cost and came to."""
    search = ticket.search
    result = search.result()
    chosen = result.chosen
    figures: dict[str, Any] = {
        "id": ticket.request_id,
        "status": str(ticket.standing),
        "model": ticket.models.policy.version,
        "simulations": search.budget.simulations,
        "nodes": len(search.nodes),
        "sampled_tokens": search.budget.tokens,
        "stop_reason": _stop_reason(ticket),
        "seconds": round(ticket.seconds, 4),
        "answer": chosen.rollout.answer if chosen else None,
        "confidence": result.confidence,
        "is_sound": chosen.rollout.is_sound if chosen else None,
        "runner_up": result.runner_up.rollout.answer if result.runner_up else None,
        "error": search.error or None,
    }
    if tree != "none":
        nodes = tree_of(search)
        figures["tree"] = nodes if tree == "full" else [n for n in nodes if n["principal"]]
    return figures


def _stop_reason(ticket: Ticket) -> str | None:
    if ticket.standing is Standing.CANCELLED:
        return "cancelled"
    reason = ticket.search.stop_reason
    return STOP_REASONS.get(reason, reason) or None


def tree_of(search: Search) -> list[dict[str, Any]]:
    """Nodes in order of their creation."""
    line = _principal(search)
    return [
        {
            "ix": node.ix,
            "parent": node.parent.ix if node.parent else None,
            "depth": node.depth,
            "text": node.parent_edge.option.text if node.parent else node.state.problem,
            "n": node.visits,
            "q": node.parent_edge.q,
            "p": node.parent_edge.prior,
            "value": node.value,
            "critics": {s.critic: s.value for s in node.scores},
            "unsound": node.parent_edge.unsound_reason or None,
            "principal": node.ix in line,
        }
        for node in list(search.nodes)
    ]


def _principal(search: Search) -> set[int]:
    """Numbers of the nodes on the most visited line, the root included."""
    line, node = {search.root.ix}, search.root
    while visited := [e for e in node.edges if e.child is not None and e.visits]:
        best = max(visited, key=lambda e: e.visits)
        assert best.child is not None
        node = best.child
        line.add(node.ix)
    return line


def usage(num_prompt: int, answers: Sequence[Answer], num_searched: int) -> CompletionUsage:
    """Tokens of prompt and answers; those that the search read are told apart."""
    written = sum(len(a.tokens) for a in answers)
    return CompletionUsage(
        prompt_tokens=num_prompt,
        completion_tokens=written,
        total_tokens=num_prompt + written,
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=num_searched),
    )


def chat_logprobs(answer: Answer, tokenizer: Tokenizer) -> ChoiceLogprobs | None:
    if answer.scored is None:
        return None

    def named(token: int) -> tuple[str, list[int]]:
        text = tokenizer.decode((token,))
        return text, list(text.encode())

    content: list[ChatCompletionTokenLogprob] = []
    for s in answer.scored:
        text, raw = named(s.token)
        top = [
            TopLogprob(token=named(t)[0], bytes=named(t)[1], logprob=value) for t, value in s.top
        ]
        content.append(
            ChatCompletionTokenLogprob(token=text, bytes=raw, logprob=s.logprob, top_logprobs=top)
        )
    return ChoiceLogprobs(content=content)


@dataclass(slots=True)
class Reply:
    """All that a chat completion says, whole or in chunks."""

    id: str
    model: str
    answers: list[Answer]
    usage: CompletionUsage
    tokenizer: Tokenizer
    prompt: tuple[int, ...]
    search: dict[str, Any] | None = None
    with_ids: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def _extra(self, answer: Answer) -> dict[str, Any]:
        extra: dict[str, Any] = {"search": answer.figures} if answer.figures else {}
        return extra | ({"token_ids": list(answer.tokens)} if self.with_ids else {})

    def whole(self) -> dict[str, Any]:
        choices = [
            Choice(
                index=i,
                finish_reason=answer.finish,
                message=ChatCompletionMessage(role="assistant", content=answer.text),
                logprobs=chat_logprobs(answer, self.tokenizer),
                **self._extra(answer),
            )
            for i, answer in enumerate(self.answers)
        ]
        extra: dict[str, Any] = {}
        if self.search is not None:
            extra["search"] = self.search
        if self.with_ids:
            extra["prompt_token_ids"] = list(self.prompt)
        completion = ChatCompletion(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.model,
            choices=choices,
            usage=self.usage,
            **extra,
        )
        return completion.model_dump(mode="json", exclude_unset=True)


def chunk(
    id: str, model: str, created: int, choices: Sequence[ChunkChoice], **extra: Any
) -> dict[str, Any]:
    found = ChatCompletionChunk(
        id=id,
        object="chat.completion.chunk",
        created=created,
        model=model,
        choices=list(choices),
        **extra,
    )
    return found.model_dump(mode="json", exclude_unset=True)


def first_chunk(id: str, model: str, created: int, num: int) -> dict[str, Any]:
    """The role of each choice: sent before anything is found."""
    return chunk(
        id,
        model,
        created,
        [
            ChunkChoice(
                index=i, delta=ChoiceDelta(role="assistant", content=""), finish_reason=None
            )
            for i in range(num)
        ],
    )


def reasoning_chunk(id: str, model: str, created: int, text: str) -> dict[str, Any]:
    """A line of progress, under both names that clients read."""
    more: dict[str, Any] = {"reasoning": text, "reasoning_content": text}
    delta = ChoiceDelta(**more)
    return chunk(id, model, created, [ChunkChoice(index=0, delta=delta, finish_reason=None)])


def answer_chunks(reply: Reply, with_usage: bool) -> list[dict[str, Any]]:
    """The answers in parts, their ends, and the usage if asked for."""
    found: list[dict[str, Any]] = []
    for i, answer in enumerate(reply.answers):
        for start in range(0, len(answer.text), SLICE):
            delta = ChoiceDelta(content=answer.text[start : start + SLICE])
            part = ChunkChoice(index=i, delta=delta, finish_reason=None)
            found.append(chunk(reply.id, reply.model, reply.created, [part]))
        end = ChunkChoice(
            index=i,
            delta=ChoiceDelta(),
            finish_reason=answer.finish,
            logprobs=_chunk_logprobs(answer, reply.tokenizer),
            **reply._extra(answer),
        )
        extra = {"search": reply.search} if reply.search is not None and i == 0 else {}
        found.append(chunk(reply.id, reply.model, reply.created, [end], **extra))
    if with_usage:
        found.append(chunk(reply.id, reply.model, reply.created, [], usage=reply.usage))
    return found


def _chunk_logprobs(answer: Answer, tokenizer: Tokenizer) -> Any:
    from openai.types.chat.chat_completion_chunk import ChoiceLogprobs as ChunkLogprobs

    found = chat_logprobs(answer, tokenizer)
    return None if found is None else ChunkLogprobs(content=found.content)
