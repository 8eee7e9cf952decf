"""What the routes stand on: models, queue, store and keys of one server."""

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from agent.config.settings import Config
from agent.engine.requests import Completion, CompletionRequest, Generated, ScoreRequest
from agent.search_models import Models
from agent.service.archive import Archive
from agent.service.catalogue import Catalogue
from agent.service.errors import ServiceError, bad_request
from agent.service.feeds import Feeds
from agent.service.figures import Figures
from agent.service.keys import Key, Scope
from agent.service.meter import Meter
from agent.service.replies import Answer, Scored
from agent.service.requests import EFFORTS, ChatRequest, SearchKnobs
from agent.service.texts import TextWorker
from agent.service.tickets import ENDED, Standing, Ticket
from agent.service.worker import Limits, Worker
from agent.solve import check_length, problem_of
from critics.registry import CRITICS
from search.randomness import derive_seed
from search.settings import SearchSettings
from search.state import State
from store import viewing
from store.database import read_store

REFRESH_S = 5.0
LAST_S = 3.0
"""For answers and the store, at the end of a drain."""
SCORING = 4
"""Requests whose texts are scored at a time: each takes a thread that others need, too."""
KEPT = 128
"""Ended searches that stay in memory with their trees, the newest; others are read of the store."""
MAX_WEIGHT = 1000.0
MAX_VARIANTS = 32
"""Weights of critics that are remembered, the newest."""

log = logging.getLogger("ratchet")


@dataclass(frozen=True, slots=True)
class Remembered:
    """What came of a request with an Idempotency-Key."""

    digest: str
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Written:
    """Texts that the policy is asked for."""

    owner: str
    models: Models
    root: State
    future: "Future[list[Completion]]"


def _text_answer(written: Written, text: Generated) -> Answer:
    models, root = written.models, written.root
    rollout = models.checked(root, models.options_of(root, text))
    return Answer(
        "".join(rollout.state.steps).strip("\n"),
        text.tokens,
        "length" if text.stop == "length" else "stop",
        rollout.answer,
        {"answer": rollout.answer, "is_sound": rollout.is_sound},
    )


def may_see(key: Key, owner: str | None) -> bool:
    """Whether a search is the key's own, or it may see all."""
    return key.may(Scope.INSPECT) or owner == key.name


class Service:
    """All that one server holds; `close` gives it back."""

    def __init__(self, models: Models, config: Config) -> None:
        """Raises BusyError where another service writes to the same run."""
        self.config = config
        self.figures = Figures()
        self.catalogue = Catalogue(models, config)
        serve = config.serve
        self.archive = Archive(config, self.newest)
        self.worker = Worker(
            Limits(serve.active, serve.waiting, serve.per_key, serve.queue_s), self._ended
        )
        self.texts = TextWorker(serve.waiting + serve.active, serve.per_key)
        self.meter = Meter(serve.tokens_per_minute)
        self.feeds = Feeds()
        self.tickets: OrderedDict[str, Ticket] = OrderedDict()
        """Under way and lately ended, by request id, oldest first."""
        self.remembered: OrderedDict[tuple[str, str], Remembered] = OrderedDict()
        """By key and Idempotency-Key."""
        self._forgetting = threading.Lock()
        self._scoring = asyncio.Semaphore(SCORING)
        self.remembering = threading.Lock()
        """Two requests with the same key may come at once: they are one search."""
        self._variants: OrderedDict[tuple[Any, ...], Models] = OrderedDict()
        """By models and weights of critics."""
        self.is_draining = False
        self._stop = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="promotions", daemon=True)
        self._watcher.start()
        self._add_gauges()

    def newest(self) -> Models:
        return self.catalogue.models_of(self.catalogue.latest)

    def _add_gauges(self) -> None:
        gauge = self.figures.gauge
        gauge("queue_depth", "Requests that wait", lambda: self.worker.num_waiting)
        gauge("searches_active", "Searches under way", lambda: self.worker.num_active)
        gauge("store_waiting", "Searches not stored yet", lambda: self.archive.num_waiting)
        gauge("store_commit_seconds", "Of the last commit", lambda: self.archive.commit_s)

    def _watch(self) -> None:
        while not self._stop.wait(REFRESH_S):
            try:
                if self.catalogue.refresh():
                    log.info("now serving %s", self.catalogue.latest.name)
            except Exception:
                log.exception("the models stay as they are")

    def _ended(self, ticket: Ticket, standing: Standing) -> None:
        self.archive.put(ticket)
        search, figures = ticket.search, self.figures
        self.meter.note(ticket.owner, search.budget.tokens)
        figures.searches.labels(status=str(standing)).inc()
        figures.search_s.observe(ticket.seconds)
        figures.simulations.inc(search.budget.simulations)
        figures.nodes.inc(len(search.nodes))
        figures.tokens.labels(kind="search").inc(search.budget.tokens)
        figures.unscored.inc(search.num_unscored)

    @property
    def is_ready(self) -> bool:
        """Whether a request that comes now will be answered."""
        return (
            not self.is_draining
            and self.archive.is_ready
            and self.worker.is_alive
            and self._watcher.is_alive()
        )

    def drain(self) -> None:
        """Take nothing more. What is under way has until shortly before the end of
        `serve.drain_s`; then it answers with the best that it found."""
        if self.is_draining:
            return
        self.is_draining = True
        self.worker.is_draining = self.texts.is_draining = True
        seconds = self.config.serve.drain_s
        self._ends_at = time.monotonic() + seconds
        self._cancelling = threading.Timer(max(0.0, seconds - LAST_S), self.worker.cancel_all)
        self._cancelling.daemon = True
        self._cancelling.start()

    def close(self) -> None:
        """Let what is under way end, and write it, within `serve.drain_s` since `drain`."""
        self.drain()
        self._stop.set()
        self.worker.close(max(1.0, self._ends_at - time.monotonic()))
        self._cancelling.cancel()
        self.texts.close(1.0)
        left = self.archive.close(max(LAST_S, self._ends_at - time.monotonic()))
        if left:
            log.error("%d searches were not stored: the store did not answer", left)

    def open_search(self, key: Key, models: Models, body: ChatRequest, question: str) -> Ticket:
        """A search for a question, not queued yet. Raises TaskError for what is no problem, and
        ServiceError while too much waits for the store."""
        self.meter.check(key.name)
        if not self.archive.is_ready:
            raise ServiceError(
                503, "too many searches wait for the store", "not_ready", retry_after_s=10
            )
        models = self.variant(models, body.search)
        problem = problem_of(models, question)
        seed = derive_seed(
            self.config.seed if body.seed is None else body.seed, problem.id, "solve"
        )
        settings = self.settings_of(models, body.search, body.reasoning_effort)
        search = models.search(problem, seed, True, settings)
        check_length(models, search.root.state)
        ticket = Ticket(f"search-{uuid4().hex}", key.name, question, problem, models, search)
        ticket.note()
        return ticket

    def variant(self, models: Models, knobs: SearchKnobs | None) -> Models:
        """The models with a request's own weights of critics. Raises ServiceError for unknown ones.

        Searches of equal weights share their batches: the same models come back for them.
        """
        if knobs is None or knobs.critics is None:
            return models
        for name, weight in knobs.critics.items():
            if name not in CRITICS or not 0.0 <= weight <= MAX_WEIGHT:
                raise bad_request(
                    f"search.critics.{name[:40]} is {weight:g}; give weights from 0 to "
                    f"{MAX_WEIGHT:g} of {', '.join(CRITICS)}",
                    param="search.critics",
                )
        place = (id(models), tuple(sorted(knobs.critics.items())))
        found = self._variants.get(place)
        if found is None:
            given = replace(models.given, weights={**models.weights, **knobs.critics})
            found = Models(models.hosts, models.models, models.task, given, models.prompts)
            self._variants[place] = found
            while len(self._variants) > MAX_VARIANTS:
                self._variants.popitem(last=False)
        return found

    def settings_of(
        self, models: Models, knobs: SearchKnobs | None, effort: str | None
    ) -> SearchSettings:
        """Settings of one request's search."""
        settings = models.settings
        if effort is not None:
            settings = replace(settings, simulations=EFFORTS[effort])
        limit = self.config.serve.request_s
        if knobs is not None:
            given: dict[str, Any] = {
                "simulations": knobs.simulations,
                "max_tokens": knobs.max_tokens,
                "max_depth": knobs.max_depth,
                "exploration": knobs.c_puct,
            }
            settings = replace(settings, **{k: v for k, v in given.items() if v is not None})
            limit = min(limit, knobs.time_limit_s or limit)
        return replace(settings, max_seconds=limit)

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queue searches, and let them be found by their ids."""
        self.worker.submit(list(tickets))
        for ticket in tickets:
            self.tickets[ticket.request_id] = ticket
        self._forget()

    def _forget(self) -> None:
        """Let go of the oldest searches that have ended and are written."""
        with self._forgetting:
            excess = len(self.tickets) - KEPT
            if excess <= 0:
                return
            waiting = self.archive.waiting_ids()
            for ticket in list(self.tickets.values()):
                if excess <= 0:
                    return
                if ticket.standing in ENDED and ticket.request_id not in waiting:
                    self.tickets.pop(ticket.request_id, None)
                    excess -= 1

    def visible(self, key: Key, request_id: str) -> Ticket | None:
        """A search in memory that the key may see."""
        ticket = self.tickets.get(request_id)
        return ticket if ticket is not None and may_see(key, ticket.owner) else None

    def submit_texts(self, key: Key, models: Models, body: ChatRequest, question: str) -> "Written":
        """The policy's own texts for a question, queued. Raises TaskError, ServiceError."""
        self.meter.check(key.name)
        root = models.root(problem_of(models, question))
        check_length(models, root)
        seed = self.config.seed if body.seed is None else body.seed
        longest = models.limits.text_tokens
        requests = [
            CompletionRequest(
                root.tokens,
                min(body.longest or longest, longest),
                body.temperature or 0.0,
                derive_seed(seed, root.problem_id, i, "text"),
                top_p=body.top_p or 1.0,
            )
            for i in range(body.n or 1)
        ]
        return Written(key.name, models, root, self.texts.submit(key.name, models, requests))

    async def read_texts(self, written: "Written") -> list[Answer]:
        """The texts as answers, when they are there."""
        found = await asyncio.wrap_future(written.future)
        for completion in found:
            if completion.error:
                raise ServiceError(500, completion.error, "generation_failed", may_retry=False)
            num = len(completion.generated.tokens)
            self.figures.tokens.labels(kind="text").inc(num)
            self.meter.note(written.owner, num)
        return await asyncio.to_thread(
            lambda: [_text_answer(written, completion.generated) for completion in found]
        )

    def node_tokens(self, search_id: int, ix: int) -> list[dict[str, Any]]:
        """Tokens of a stored search's node with their log-probabilities under the newest policy.

        Raises NotFoundError for one that is not there. What the policy was when it searched may be
        another one; the page says so.
        """
        store = read_store(self.config.store)
        try:
            with store.session() as session:
                node = viewing.node_shown(session, search_id, ix)
        finally:
            store.close()
        models = self.newest()
        before = "".join(step["text"] for step in node["path"][:-1])
        given = tuple(models.tokenizer.encode(before)) if before else ()
        own = tuple(models.tokenizer.encode(node["text"], is_start=not given))
        row = ScoreRequest(given + own, max(1, len(given)))
        (values,) = models.hosts.logprobs(models.policy, [row])
        shown = row.tokens[row.num_given :]
        return [
            {"text": models.tokenizer.decode((t,)), "logprob": value}
            for t, value in zip(shown, values, strict=True)
        ]

    async def scored(
        self, models: Models, prompt: tuple[int, ...], tokens: tuple[int, ...], top: int
    ) -> tuple[Scored, ...]:
        """Log-probabilities of tokens after a prompt, under the policy at temperature 1."""
        if not tokens:
            return ()
        row = ScoreRequest(prompt + tokens, len(prompt))
        async with self._scoring:
            (values,) = await asyncio.to_thread(models.hosts.logprobs, models.policy, [row])
            tops: Sequence[tuple[tuple[int, float], ...]] = ((),) * len(values)
            if top:
                hosts = models.hosts
                (tops,) = await asyncio.to_thread(hosts.likeliest, models.policy, [row], top)
        own = tokens[len(tokens) - len(values) :]
        return tuple(Scored(*each) for each in zip(own, values, tops, strict=True))
