"""A search that somebody asked for, from the queue to its end."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from agent.search_models import Models
from search.mcts import Search
from search.state import Problem
from search.tree import Edge


class Standing(StrEnum):
    """Where it stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (Standing.DONE, Standing.FAILED, Standing.CANCELLED)
PROGRESS_S = 0.25
"""Between two looks at a search, at least."""
TOP = 5
"""Options of the root that progress tells of."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One search of one request. The worker's thread alone changes it."""

    request_id: str
    owner: str
    """Name of the key that asked."""
    question: str
    problem: Problem
    models: Models
    search: Search
    standing: Standing = Standing.QUEUED
    future: "Future[None]" = field(default_factory=Future)
    """Done when the search has ended; holds the error of one that failed."""
    asked_at: float = field(default_factory=time.monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    started_at: float = 0.0
    ended_at: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    """What was found so far; replaced, never changed."""
    next_note: float = 0.0
    """When it may be looked at again."""
    is_shared: bool = False
    """Whether another request may ask for it, so that it goes on when its client is gone."""
    failure: BaseException | None = None
    """Why a request of it could not be answered."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self) -> float:
        """Since it began to run."""
        if not self.started_at:
            return 0.0
        return (self.ended_at or time.monotonic()) - self.started_at

    def note(self) -> None:
        """Take down how far it is."""
        began = time.monotonic()
        self.progress = progress_of(self.search, self.seconds)
        spent = time.monotonic() - began
        # Of a search with thousands of texts a look takes long: it may have a tenth of the time.
        self.next_note = began + max(PROGRESS_S, 10 * spent)


def progress_of(search: Search, seconds: float) -> dict[str, Any]:
    """What a search has found so far, for who looks on."""
    result = search.result()
    chosen = result.chosen
    budget, settings = search.budget, search.settings
    return {
        "simulations": budget.simulations,
        "simulations_limit": settings.simulations,
        "tokens": budget.tokens,
        "tokens_limit": settings.max_tokens or None,
        "nodes": len(search.nodes),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(budget.tokens / seconds, 1) if seconds > 0 else None,
        "answer": chosen.rollout.answer if chosen else None,
        "confidence": result.confidence,
        "steps": [step.strip() for step in chosen.rollout.state.steps] if chosen else [],
        "options": [
            _option(edge)
            for edge in sorted(search.root.edges, key=lambda e: -e.visits)[:TOP]
            if edge.visits
        ],
    }


def _option(edge: Edge) -> dict[str, Any]:
    child = edge.child
    return {
        "ix": child.ix if child else None,
        "text": edge.option.text.strip(),
        "visits": edge.visits,
        "q": edge.q,
        "prior": edge.prior,
        "scores": {s.critic: s.value for s in child.scores} if child else {},
    }
