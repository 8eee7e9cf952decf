"""Texts by the policy alone, for requests without a search: those that wait are one batch."""

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from agent.engine.requests import Completion, CompletionRequest
from agent.search_models import Models
from agent.service.errors import ServiceError

log = logging.getLogger("ratchet")


@dataclass(slots=True, eq=False)
class _Asked:
    owner: str
    models: Models
    requests: list[CompletionRequest]
    future: "Future[list[Completion]]" = field(default_factory=Future)


class TextWorker:
    """A thread that writes texts. All methods are safe from any thread."""

    def __init__(self, most_waiting: int, per_key: int, most_rows: int = 64) -> None:
        self.most_waiting = most_waiting
        self.per_key = per_key
        """Requests of one key that wait, at most."""
        self.most_rows = most_rows
        """Texts of one batch, at most about."""
        self._waiting: list[_Asked] = []
        self._num_active = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self.is_draining = False
        """Whether nothing more is taken."""
        self._thread = threading.Thread(target=self._run, name="texts", daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        return self._num_active

    def submit(
        self, owner: str, models: Models, requests: list[CompletionRequest]
    ) -> "Future[list[Completion]]":
        """Raises ServiceError when too many wait already, or at the end."""
        with self._changed:
            if self._is_closing or self.is_draining:
                raise ServiceError(503, "the server is shutting down", "draining", retry_after_s=5)
            own = sum(asked.owner == owner for asked in self._waiting)
            if len(self._waiting) >= self.most_waiting or own >= self.per_key:
                raise ServiceError(
                    429,
                    f"{len(self._waiting)} requests are waiting; try again later",
                    "rate_limit_exceeded",
                    retry_after_s=2,
                )
            asked = _Asked(owner, models, requests)
            self._waiting.append(asked)
            self._changed.notify_all()
        return asked.future

    def close(self, patience_s: float) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    if self._is_closing:
                        return
                    self._changed.wait()
                batch = self._taken()
                self._num_active = len(batch)
            self._write(batch)
            self._num_active = 0

    def _taken(self) -> list[_Asked]:
        """The first that waits, and others of the same models; what was given up is left out."""
        self._waiting = [a for a in self._waiting if not a.future.cancelled()]
        if not self._waiting:
            return []
        models = self._waiting[0].models
        batch: list[_Asked] = []
        for asked in [a for a in self._waiting if a.models is models]:
            if batch and sum(len(a.requests) for a in batch) >= self.most_rows:
                break
            batch.append(asked)
        self._waiting = [a for a in self._waiting if a not in batch]
        return [a for a in batch if a.future.set_running_or_notify_cancel()]

    def _write(self, batch: list[_Asked]) -> None:
        if not batch:
            return
        models = batch[0].models
        flat = [r for asked in batch for r in asked.requests]
        try:
            found = iter(
                models.hosts.drafted_completions(
                    models.policy, models.models.refs.get("drafter"), flat, models.speculation
                )
            )
            answers = [[next(found) for _ in asked.requests] for asked in batch]
        except Exception as error:
            log.exception("texts failed")
            for asked in batch:
                asked.future.set_exception(error)
            return
        for asked, answer in zip(batch, answers, strict=True):
            asked.future.set_result(answer)
