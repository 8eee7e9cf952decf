"""Options after one prefix, best first: which partial one to feed next, and when one is settled.

This is best-first beam search (Meister, Vieira, Cotterell 2020, "Best-First Beam Search"): partial
options wait in a heap by score, a score only falls as an option grows, so a finished option at the
top of the heap is the next best. By log-probability these are the most probable options; by a
Gumbel-perturbed log-probability, each partial's noise conditioned on its parent's, they are a
sample without replacement from the policy (Kool, van Hoof, Welling 2019, "Stochastic Beams and
Where to Find Them").

What is fed next depends on the options settled so far and never on how many are wanted, so an
enumeration can be left and taken up again: a larger count begins with a smaller one's options, and
the tokens spent on n options are the same whether they were asked for at once or in parts.
"""

import heapq
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from search.state import Stop

Tokens = tuple[int, ...]
StopOf = Callable[[Tokens], Stop | None]
"""Why an option ends with its last token; None when it goes on."""

NO_SCORES: NDArray[np.float64] = np.zeros(0)
NO_TOKENS: NDArray[np.int64] = np.zeros(0, np.int64)
MIN_WIDTH = 4
"""Partial options of one length that may be fed before an option is settled, at least."""


@dataclass(slots=True, eq=False)
class Partial:
    """A beginning of an option that was fed, and how it may go on."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    score: float
    """What the heap orders by: log-probability, or its perturbed form."""
    stream: int
    """Digest of seed and tokens: the noise of its continuations; 0 without noise."""
    columns: tuple[int, ...] = ()
    """Where its tokens lie in the job's cache, the prefix not counted."""
    scores: NDArray[np.float64] = field(default_factory=lambda: NO_SCORES)
    """Of its continuations, best first."""
    next_tokens: NDArray[np.int64] = field(default_factory=lambda: NO_TOKENS)
    next_logprobs: NDArray[np.float64] = field(default_factory=lambda: NO_SCORES)
    next_drawn: NDArray[np.float64] = field(default_factory=lambda: NO_SCORES)
    """Log-probabilities of the next tokens under the distribution that they are drawn from."""
    total: float = 0.0
    """Log-probability of its tokens under that distribution."""


@dataclass(frozen=True, slots=True)
class FoundOption:
    """A settled option."""

    tokens: Tokens
    logprobs: tuple[float, ...]
    stop: Stop
    spent: int
    """Tokens fed for this and all options before it."""


Item = tuple[float, int, Partial, int, bool]
"""Minus the score, order of arrival, the partial option, which of its continuations, and whether
the one after that is still to come into the heap."""


class Enumeration:
    def __init__(self, limit: int, stop_of: StopOf) -> None:
        self.limit = limit
        """Tokens of an option, at most."""
        self.stop_of = stop_of
        self.options: list[FoundOption] = []
        self.num_fed = 0
        self.num_columns = 0
        """Columns after the prefix that partial options take in the cache."""
        self.error = ""
        self._heap: list[Item] = []
        self._crowded: list[Item] = []
        """Partials that too many better ones of their length stand before, for the time being."""
        self._fed: dict[int, list[float]] = {}
        """Scores of the partials that were fed, by length, ascending."""
        self._order = 0
        self._extra = 0

    @property
    def is_exhausted(self) -> bool:
        return not self._heap and not self._crowded

    def spent(self, count: int) -> int:
        """Tokens fed for the first `count` options; for all when there are fewer."""
        if count <= 0:
            return 0
        return self.options[count - 1].spent if count <= len(self.options) else self.num_fed

    def next(self, count: int) -> list[Partial]:
        """Partial options to feed now; none when `count` are settled or no more come."""
        taken: list[Partial] = []
        waiting: list[Item] = []
        while len(self.options) < count and len(taken) < self._num_at_once:
            if not self._heap:
                if taken or waiting or not self._crowded:
                    break
                self._extra += MIN_WIDTH
                self._readmit()
            item = heapq.heappop(self._heap)
            partial = self._continued(item)
            stop = self._stop(partial)
            if stop is not None and taken:
                waiting.append(item)  # what is being fed may have something better
                continue
            if stop is None and self._is_crowded(partial):
                self._crowded.append((*item[:4], False))
            elif stop is None:
                taken.append(partial)
            else:
                self.options.append(
                    FoundOption(partial.tokens, partial.logprobs, stop, self.num_fed)
                )
                self._readmit()
            if item[4]:
                self._push(item[2], item[3] + 1)
        for item in waiting:
            heapq.heappush(self._heap, item)
        return taken

    @property
    def _num_at_once(self) -> int:
        return 1 + len(self.options) // 4

    @property
    def _width(self) -> int:
        """Partials of one length that may be better than one that is fed."""
        return max(MIN_WIDTH, 2 * (len(self.options) + 1)) + self._extra

    def _is_crowded(self, partial: Partial) -> bool:
        fed = self._fed.get(len(partial.tokens), [])
        return len(fed) - bisect_right(fed, partial.score) >= self._width

    def _readmit(self) -> None:
        for item in self._crowded:
            heapq.heappush(self._heap, item)
        self._crowded.clear()

    def _stop(self, partial: Partial) -> Stop | None:
        return self.stop_of(partial.tokens) or (
            "length" if len(partial.tokens) >= self.limit else None
        )

    def _continued(self, item: Item) -> Partial:
        _, _, parent, rank, _ = item
        return Partial(
            (*parent.tokens, int(parent.next_tokens[rank])),
            (*parent.logprobs, float(parent.next_logprobs[rank])),
            float(parent.scores[rank]),
            parent.stream,
            parent.columns,
            total=parent.total + float(parent.next_drawn[rank]),
        )

    def _push(self, parent: Partial, rank: int) -> None:
        if rank < len(parent.scores):
            self._order += 1
            heapq.heappush(
                self._heap, (-float(parent.scores[rank]), self._order, parent, rank, True)
            )

    def fed(
        self,
        partial: Partial,
        scores: NDArray[np.float64],
        tokens: NDArray[np.int64],
        logprobs: NDArray[np.float64],
        drawn: NDArray[np.float64] | None = None,
    ) -> None:
        """Note how a partial option that was fed may go on, best first; `drawn` are the tokens'
        log-probabilities under the distribution that they are drawn from, where it is another."""
        self.num_fed += 1
        insort(self._fed.setdefault(len(partial.tokens), []), partial.score)
        partial.scores, partial.next_tokens, partial.next_logprobs = scores, tokens, logprobs
        partial.next_drawn = logprobs if drawn is None else drawn
        self._push(partial, 0)

    def best(self, count: int, by_logprob: bool) -> Sequence[FoundOption]:
        """The first `count` options: by log-probability, or in the order they were settled in."""
        found = self.options[:count]
        return sorted(found, key=lambda x: -sum(x.logprobs)) if by_logprob else found
