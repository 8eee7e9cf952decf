"""The queue: places go to keys in turn, and who waits too long is told."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from agent.service.errors import ServiceError
from agent.service.tickets import Standing, Ticket
from agent.service.worker import Limits, Worker
from search.errors import ResourceError
from search.interfaces import EvaluateRequest, Evaluation, ExpandRequest, Proposal
from search.mcts import Search
from search.settings import SearchSettings
from search.state import Option, Problem, State
from tests.agent.service.conftest import until


class Gated:
    """Models that answer one batch each time they are let."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.versions = {"policy": "p"}

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        self.gate.acquire()
        return [Proposal((Option((1,), "a\n", -0.1, "end"),), ("",), 1) for _ in requests]

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        self.gate.acquire()
        return [Evaluation(0.5, (), (), 0, 1) for _ in requests]


def ticket(models: Any, owner: str, name: str) -> Ticket:
    state = State(name, (0,), "", problem=name)
    search = Search(state, SearchSettings(simulations=1), 0)
    return Ticket(name, owner, name, Problem(name, name), models, search)


def names_of(ended: list[Ticket]) -> list[str]:
    return [t.request_id for t in ended]


def test_one_key_with_many_requests_does_not_stand_before_another() -> None:
    ended: list[Ticket] = []
    models = Gated()
    worker = Worker(Limits(active=1, waiting=10), lambda t, _: ended.append(t))
    many = [ticket(models, "many", f"m{i}") for i in range(5)]
    for each in many:
        worker.submit([each])
    worker.submit([ticket(models, "few", "f0")])
    for _ in range(12):
        models.gate.release()
    until(lambda: len(ended) == 6)
    assert names_of(ended).index("f0") <= 1  # m0 runs, then it is the other key's turn
    worker.close(5)


def test_who_waits_too_long_is_told_and_others_go_on() -> None:
    ended: list[Ticket] = []
    models = Gated()
    worker = Worker(Limits(active=1, waiting=10, queue_s=0.2), lambda t, _: ended.append(t))
    first, late = ticket(models, "a", "first"), ticket(models, "a", "late")
    worker.submit([first])
    until(lambda: first.standing is Standing.RUNNING)
    worker.submit([late])
    time.sleep(0.4)
    for _ in range(4):
        models.gate.release()
    with pytest.raises(ServiceError) as caught:
        late.future.result(10)
    assert (caught.value.status, caught.value.code) == (503, "overloaded")
    first.future.result(10)
    assert names_of(ended) == ["first"]
    worker.close(5)


def test_a_key_has_so_many_searches_and_a_queue_so_many_places() -> None:
    models = Gated()
    worker = Worker(Limits(active=1, waiting=2, per_key=2), lambda t, _: None)
    for i in range(2):
        worker.submit([ticket(models, "a", f"a{i}")])
    with pytest.raises(ServiceError, match="2 may be"):
        worker.submit([ticket(models, "a", "a2")])
    worker.submit([ticket(models, "b", "b0")])
    with pytest.raises(ServiceError, match="waiting"):
        worker.submit([ticket(models, "c", "c0")])
    for _ in range(12):
        models.gate.release()
    worker.close(5)


def test_a_cancelled_search_that_waited_never_runs() -> None:
    ended: list[Ticket] = []
    models = Gated()
    worker = Worker(Limits(active=1, waiting=5), lambda t, _: ended.append(t))
    first, waiting = ticket(models, "a", "first"), ticket(models, "a", "waiting")
    worker.submit([first])
    until(lambda: first.standing is Standing.RUNNING)
    worker.submit([waiting])
    worker.cancel(waiting)
    for _ in range(4):
        models.gate.release()
    waiting.future.result(10)
    assert waiting.standing is Standing.CANCELLED and waiting.started_at == 0.0
    worker.close(5)
    assert names_of(ended) == ["first"]


def test_after_the_end_nothing_is_taken() -> None:
    worker = Worker(Limits(), lambda t, _: None)
    worker.close(5)
    with pytest.raises(ServiceError, match="shutting down"):
        worker.submit([ticket(Gated(), "a", "x")])


class Poisoned(Gated):
    """Models for which one question cannot be answered, and whose error quotes it."""

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        if any(r.state.problem == "poison" for r in requests):
            raise ValueError("a secret: poison")
        return super().propose(requests)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        if any(r.state.problem == "poison" for r in requests):
            raise ValueError("a secret: poison")
        return super().evaluate(requests)


def test_a_request_that_cannot_be_answered_fails_alone_and_is_not_quoted_to_others() -> None:
    ended: list[Ticket] = []
    models = Poisoned()
    worker = Worker(Limits(active=8, waiting=8), lambda t, _: ended.append(t))
    names = ["a", "b", "poison", "c", "d"]
    tickets = [ticket(models, name, name) for name in names]
    worker.submit(tickets[:1])
    until(lambda: tickets[0].standing is Standing.RUNNING)
    for each in tickets[1:]:
        worker.submit([each])
    for _ in range(80):
        models.gate.release()
    until(lambda: len(ended) == 5)
    standing = {t.request_id: t.standing for t in tickets}
    assert standing.pop("poison") is Standing.FAILED
    assert set(standing.values()) == {Standing.DONE}
    with pytest.raises(ServiceError) as caught:
        tickets[2].future.result(5)
    assert caught.value.status == 500 and "secret" not in caught.value.message
    assert "secret" not in tickets[2].search.error
    worker.close(5)


def test_models_that_are_away_are_not_asked_one_by_one() -> None:
    class Away(Gated):
        num_calls = 0

        def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
            self.num_calls += 1
            raise ResourceError("the actor is gone")

    models = Away()
    worker = Worker(Limits(active=8, waiting=8), lambda t, _: None)
    tickets = [ticket(models, name, name) for name in "abcd"]
    worker.submit(tickets)
    for each in tickets:
        with pytest.raises(ServiceError) as caught:
            each.future.result(10)
        assert (caught.value.status, caught.value.may_retry) == (503, None)
    assert models.num_calls <= 4
    worker.close(5)


def test_a_look_at_a_search_that_fails_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Ticket) -> None:
        raise ValueError("no answer is equal to another")

    monkeypatch.setattr(Ticket, "note", broken)
    models = Gated()
    worker = Worker(Limits(), lambda t, _: None)
    each = ticket(models, "a", "a")
    worker.submit([each])
    for _ in range(8):
        models.gate.release()
    each.future.result(10)
    assert each.standing is Standing.DONE and worker.is_alive
    worker.close(5)
