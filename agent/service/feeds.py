"""Events of searches under way for all who listen: each is written once, however many they are.

The event loop's thread alone uses it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.service.streaming import event
from agent.service.tickets import Ticket

PAUSE_S = 0.1
"""Between two looks at a search."""
LONGEST_S = 2.0
AT_FULL_PACE = 50
"""Listeners that are told at once; the more there are, the longer is the pause of each."""


def simulation_event(number: int, leaf_ix: int, value: float, num_tokens: int) -> bytes:
    """The event of one simulation, counted from 1."""
    data = {"simulation": number, "leaf": leaf_ix, "value": value, "tokens": num_tokens}
    return event(data, "search.simulation", number)


@dataclass(slots=True)
class Feed:
    """Those of one search."""

    ticket: Ticket
    num_listening: int = 0
    written: list[bytes] = field(default_factory=list)

    def after(self, number: int) -> tuple[bytes, int]:
        """All events after so many simulations, and how many have been made."""
        log = self.ticket.search.log
        for i in range(len(self.written), len(log)):
            self.written.append(
                simulation_event(i + 1, log[i].leaf_ix, log[i].value, log[i].num_tokens)
            )
        return b"".join(self.written[number:]), len(self.written)


class Feeds:
    """Those that anybody listens to."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}

    @property
    def pause_s(self) -> float:
        """How long a listener waits before it looks again: a thousand must not take the time
        that searches need."""
        num = sum(feed.num_listening for feed in self._feeds.values())
        return min(LONGEST_S, PAUSE_S * max(1.0, num / AT_FULL_PACE))

    @contextmanager
    def listening(self, ticket: Ticket) -> Iterator[Feed]:
        """The search's feed, kept for as long as somebody listens."""
        feed = self._feeds.setdefault(ticket.request_id, Feed(ticket))
        feed.num_listening += 1
        try:
            yield feed
        finally:
            feed.num_listening -= 1
            if not feed.num_listening:
                self._feeds.pop(ticket.request_id, None)
