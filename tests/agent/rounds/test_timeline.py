"""Who was at work while a stage ran."""

import time
from typing import Any

from agent.hosting.work_clock import WorkClock, at_work
from agent.rounds.timeline import Timeline


class Worker:
    def __init__(self) -> None:
        self.clock = WorkClock()

    @at_work
    def outer(self, seconds: float) -> float:
        return self.inner(seconds)

    @at_work
    def inner(self, seconds: float) -> float:
        time.sleep(seconds)
        return self.clock.seconds

    @at_work
    def failing(self) -> None:
        raise ValueError


def test_a_call_within_a_call_counts_once() -> None:
    worker = Worker()
    during = worker.outer(0.05)
    assert 0.05 <= during <= worker.clock.seconds < 0.1


def test_a_call_that_fails_ends_its_count() -> None:
    worker = Worker()
    for _ in range(2):
        try:
            worker.failing()
        except ValueError:
            continue
    seconds = worker.clock.seconds
    time.sleep(0.02)
    assert worker.clock.seconds == seconds < 0.02


class Seen:
    """Hosts that say what they are told to."""

    def __init__(self, *healths: dict[str, dict[str, Any]]) -> None:
        self.healths = list(healths)

    def health(self) -> dict[str, dict[str, Any]]:
        return self.healths.pop(0)


def test_shares_are_of_the_stage_and_a_new_actor_counts_from_its_beginning() -> None:
    before = {"policy": {"pid": 1, "busy_s": 100.0}, "value": {"pid": 2, "busy_s": 50.0}}
    after = {
        "policy": {"pid": 1, "busy_s": 100.05},
        "value": {"pid": 3, "busy_s": 0.02},
        "outcome": {"pid": 4, "busy_s": 0.0},
    }
    timeline = Timeline(Seen(before, after))  # type: ignore[arg-type]
    time.sleep(0.1)
    found = timeline.at_work()
    assert 0.2 < found["policy"] <= 0.5 and 0.05 < found["value"] <= 0.2
    assert found["outcome"] == 0.0
