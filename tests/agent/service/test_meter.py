"""Tokens a minute of each key."""

import pytest

from agent.service.errors import ServiceError
from agent.service.meter import Meter


def test_a_key_waits_until_its_oldest_tokens_are_a_minute_old() -> None:
    now = [0.0]
    meter = Meter(100, lambda: now[0])
    meter.note("a", 60)
    now[0] = 20.0
    meter.check("a")
    meter.note("a", 60)
    with pytest.raises(ServiceError) as caught:
        meter.check("a")
    assert (caught.value.status, caught.value.headers["retry-after"]) == (429, "40")
    meter.check("b")  # others have their own
    now[0] = 60.0
    meter.check("a")


def test_without_a_bound_nothing_is_kept() -> None:
    meter = Meter(0)
    meter.note("a", 10**9)
    meter.check("a")
    assert not meter._spent
