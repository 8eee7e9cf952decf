"""One thread that steps the searches of all requests together.

Requests wait in one queue a key, and keys take turns, so that nobody's many requests stand before
another's one. Searches of the same models share their batches; no search's tree depends on the
others.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agent.search_models import Models
from agent.service.apart import Apart, is_of_all
from agent.service.errors import ServiceError
from agent.service.tickets import ENDED, Standing, Ticket
from search import frontier
from search.mcts import Search

IDLE_S = 0.1
CANCELLED = "cancelled: nobody waits for it any more"
INSIDE = "failed inside; the server's log says why"
"""All that the store and other keys are told: an error may quote somebody's question."""


def failed() -> ServiceError:
    """The search would fail again, after as many seconds."""
    return ServiceError(500, f"the search {INSIDE}", "internal_error", may_retry=False)


def away() -> ServiceError:
    return ServiceError(503, "the models do not answer", "not_ready", retry_after_s=5)


log = logging.getLogger("ratchet")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service takes on."""

    active: int = 64
    """Searches that run at a time."""
    waiting: int = 64
    """Searches that wait for a place."""
    per_key: int = 128
    """Searches of one key that run or wait."""
    queue_s: float = 30.0
    """How long one may wait for a place."""


@dataclass(slots=True)
class _Lane:
    """The searches of one set of models."""

    frontier: frontier.Frontier
    apart: Apart
    tickets: dict[int, Ticket] = field(default_factory=dict)
    """By the identity of their search."""


class Worker:
    """The queue and the thread. All methods are safe from any thread."""

    def __init__(self, limits: Limits, ended: Callable[[Ticket, Standing], None]) -> None:
        """`ended` is called from the worker's thread for each search that ran, once, before others
        can see that it has ended."""
        self.limits = limits
        self._ended = ended
        self._queues: dict[str, deque[Ticket]] = {}
        """By key, in the order in which keys take turns."""
        self._lanes: dict[int, _Lane] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self.is_draining = False
        """Whether nothing more is taken, while what is under way goes on."""
        self._thread = threading.Thread(target=self._run, name="searches", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return sum(len(queue) for queue in list(self._queues.values()))

    @property
    def num_active(self) -> int:
        return sum(len(lane.tickets) for lane in list(self._lanes.values()))

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, tickets: list[Ticket]) -> None:
        """Queue searches. Raises ServiceError when too many wait already, or at the end."""
        with self._changed:
            if self._is_closing or self.is_draining or not self.is_alive:
                raise ServiceError(503, "the server is shutting down", "draining", retry_after_s=5)
            owner = tickets[0].owner
            own = len(self._queues.get(owner, ())) + sum(
                t.owner == owner for lane in self._lanes.values() for t in lane.tickets.values()
            )
            if own + len(tickets) > self.limits.per_key:
                raise ServiceError(
                    429,
                    f"{own} searches of this key are under way; {self.limits.per_key} may be",
                    "rate_limit_exceeded",
                    retry_after_s=2,
                )
            free = max(0, self.limits.active - self.num_active)
            if self.num_waiting + len(tickets) > self.limits.waiting + free:
                raise ServiceError(
                    429,
                    f"{self.num_waiting} searches are waiting; try again later",
                    "rate_limit_exceeded",
                    retry_after_s=2,
                )
            for ticket in tickets:
                self._queues.setdefault(ticket.owner, deque()).append(ticket)
            self._changed.notify_all()

    def cancel(self, ticket: Ticket) -> None:
        """Let a search end at the next step, with what it found; one that has ended stays."""
        ticket.cancelled.set()
        with self._changed:
            self._changed.notify_all()

    def close(self, patience_s: float) -> None:
        """Take nothing more, wait for what is under way, and cancel the rest."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self.cancel_all()
            self._thread.join(5.0)

    def cancel_all(self) -> None:
        """Let all that is under way end with what it found."""
        for ticket in self._all():
            self.cancel(ticket)

    def _all(self) -> list[Ticket]:
        with self._changed:
            waiting = [t for queue in self._queues.values() for t in queue]
            return waiting + [t for lane in self._lanes.values() for t in lane.tickets.values()]

    def _run(self) -> None:
        try:
            self._work()
        except BaseException:
            # Nobody else ends what is under way: its clients would wait for ever.
            log.exception("the thread that steps the searches has ended")
            for ticket in self._all():
                self._finish(ticket, failed(), has_run=False)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._admit()
                if not self.num_active:
                    if self._is_closing and not self.num_waiting:
                        return
                    self._changed.wait(IDLE_S)
                    continue
            for lane in list(self._lanes.values()):
                self._step(lane)

    def _admit(self) -> None:
        """Give free places to the keys in turn."""
        now = time.monotonic()
        for queue in self._queues.values():
            for ticket in list(queue):
                late = now - ticket.asked_at > self.limits.queue_s
                if ticket.cancelled.is_set() or late:
                    queue.remove(ticket)
                    error = None
                    if late and not ticket.cancelled.is_set():
                        error = ServiceError(
                            503,
                            f"no place became free in {self.limits.queue_s:.0f} s",
                            "overloaded",
                            retry_after_s=5,
                        )
                    self._finish(ticket, error, has_run=False)
        free = self.limits.active - self.num_active
        while free > 0 and (owner := next((k for k, q in self._queues.items() if q), None)):
            queue = self._queues.pop(owner)
            ticket = queue.popleft()
            if queue:
                self._queues[owner] = queue  # at the end of the turn
            self._start(ticket)
            free -= 1
        self._queues = {owner: queue for owner, queue in self._queues.items() if queue}

    def _start(self, ticket: Ticket) -> None:
        lane = self._lanes.get(id(ticket.models))
        if lane is None:
            lane = self._lanes[id(ticket.models)] = self._lane(ticket.models)
        lane.tickets[id(ticket.search)] = ticket
        lane.frontier.add(ticket.search)
        ticket.standing, ticket.started_at = Standing.RUNNING, time.monotonic()

    def _lane(self, models: Models) -> _Lane:
        tickets: dict[int, Ticket] = {}
        apart = Apart(models, models)

        def told(search: Search, request: Any, _: Any) -> None:
            ticket = tickets[id(search)]
            if id(request.request) in apart.failed:
                ticket.failure = apart.failed.pop(id(request.request))
            elif time.monotonic() > ticket.next_note:
                _noted(ticket)

        listener = frontier.Listener(told=told)
        made = frontier.Frontier(apart, apart, listener, time.monotonic)
        return _Lane(made, apart, tickets)

    def _step(self, lane: _Lane) -> None:
        for ticket in list(lane.tickets.values()):
            if ticket.cancelled.is_set():
                lane.frontier.cancel(ticket.search)
                ticket.search.fail(CANCELLED)
                self._leave(lane, ticket, None)
            elif ticket.failure is not None:
                lane.frontier.cancel(ticket.search)
                ticket.search.fail(INSIDE)
                self._leave(lane, ticket, failed())
        if lane.frontier.is_idle:
            return
        try:
            ended = lane.frontier.step()
        except Exception as error:
            log.exception("searches failed")
            lane.apart.failed.clear()  # of requests that nobody was told of
            under_way = {id(s) for s in lane.frontier.searches}
            for ticket in [t for k, t in lane.tickets.items() if k not in under_way]:
                ticket.search.fail(INSIDE)
                self._leave(lane, ticket, away() if is_of_all(error) else failed())
            return
        for search in ended:
            ticket = lane.tickets[id(search)]
            has_failed = search.stop_reason == "failed" or ticket.failure is not None
            if ticket.failure is not None:
                search.fail(INSIDE)
            self._leave(lane, ticket, failed() if has_failed else None)

    def _leave(self, lane: _Lane, ticket: Ticket, error: ServiceError | None) -> None:
        with self._changed:
            del lane.tickets[id(ticket.search)]
            if not lane.tickets:
                self._lanes.pop(id(ticket.models), None)
        ticket.ended_at = time.monotonic()
        _noted(ticket)
        self._finish(ticket, error, has_run=True)

    def _finish(self, ticket: Ticket, error: ServiceError | None, has_run: bool) -> None:
        if ticket.standing in ENDED:
            return
        is_cancelled = ticket.cancelled.is_set() and error is None
        standing = (
            Standing.FAILED if error else Standing.CANCELLED if is_cancelled else Standing.DONE
        )
        ticket.ended_at = ticket.ended_at or time.monotonic()
        if has_run:
            try:
                self._ended(ticket, standing)
            except Exception:
                log.exception("search %s was not handed to the store", ticket.request_id)
        ticket.standing = standing
        if ticket.future.done():
            return
        if error is not None:
            ticket.future.set_exception(error)
        else:
            ticket.future.set_result(None)


def _noted(ticket: Ticket) -> None:
    """Take down how far it is; what goes wrong with that ends no search."""
    try:
        ticket.note()
    except Exception:
        log.exception("search %s cannot be looked at", ticket.request_id)
