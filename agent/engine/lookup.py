"""Drafts for nothing: what followed the same few tokens before, in texts of the same problem.

Siblings of a tree and earlier rollouts share most of their tokens, and a step often repeats a part
of the step before (prompt look-up decoding: Saxena 2023, "Prompt Lookup Decoding"; here over all
texts of a tree).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.engine.job_cache import Cache
from agent.engine.requests import CompletionRequest, Tokens

LONGEST, SHORTEST = 6, 2
"""Tokens that have to agree, tried from the most to the fewest."""
MAX_GROUPS = 512
MAX_TOKENS = 16384
"""Of one group; its texts are forgotten together beyond that."""
MOST_AT_ONCE = 2048
"""Of one text: a long one must not push all others out, and be pushed out by them, each time."""


@dataclass(slots=True)
class Group:
    """Texts of one problem, and where each run of tokens was last followed by something."""

    texts: dict[CompletionRequest, list[int]] = field(default_factory=dict)
    after: dict[tuple[int, ...], tuple[list[int], int]] = field(default_factory=dict)
    num_tokens: int = 0

    def note(self, request: CompletionRequest, done: Sequence[int]) -> None:
        """Take in what a text has written since it was last seen. What stood there before and is
        other now was a guess, and is forgotten. Of a new text what another one begins with, too, is
        known, and of what is left the last `MOST_AT_ONCE` tokens are taken in."""
        given = len(request.prefix)
        text = self.texts.get(request)
        if text is None:
            start = max(1, self._known_of(request.prefix))
            text = list(request.prefix)
        else:
            known = text[given : given + len(done)]
            same = next(
                (i for i, (a, b) in enumerate(zip(known, done, strict=False)) if a != b), len(known)
            )
            start = len(text) if same == len(known) else given + same
            if start < len(text):
                self._forget(text, start)
        self.texts[request] = text
        text += done[len(text) - given :]
        start = max(start, len(text) - MOST_AT_ONCE)
        self.num_tokens += max(0, len(text) - start)
        for end in range(start, len(text)):
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                self.after[tuple(text[end - size : end])] = (text, end)

    def _forget(self, text: list[int], start: int) -> None:
        """Take back what a text has from a place on."""
        for end in range(start, len(text)):
            for size in range(SHORTEST, min(LONGEST, end) + 1):
                key = tuple(text[end - size : end])
                if self.after.get(key) == (text, end):
                    del self.after[key]
        self.num_tokens -= len(text) - start
        del text[start:]

    def _known_of(self, prefix: Tokens) -> int:
        """Tokens that the last text seen begins with, too."""
        if not self.texts:
            return 0
        last = next(reversed(self.texts)).prefix
        low, high = 0, min(len(prefix), len(last))
        while low < high:  # by halves: whole parts are compared at once
            middle = (low + high + 1) // 2
            if prefix[low:middle] == last[low:middle]:
                low = middle
            else:
                high = middle - 1
        return low

    def following(self, tail: Sequence[int], length: int) -> list[int]:
        """What came after the last tokens of a text, the most that agree."""
        for size in range(min(LONGEST, len(tail)), SHORTEST - 1, -1):
            found = self.after.get(tuple(tail[-size:]))
            if found is not None:
                known, place = found
                return known[place : place + length]
        return []


class LookupDrafts:
    """A source of drafts without a model."""

    name = "lookup"
    least_columns = 0

    def __init__(self) -> None:
        self._groups: OrderedDict[int, Group] = OrderedDict()

    def for_short_texts(self) -> "LookupDrafts":
        return self

    def _group(self, number: int) -> Group:
        group = self._groups.get(number)
        if group is None or group.num_tokens > MAX_TOKENS:
            group = self._groups[number] = Group()
        self._groups.move_to_end(number)
        while len(self._groups) > MAX_GROUPS:
            self._groups.popitem(last=False)
        return group

    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        """At most `lengths` tokens for each text; none where its last tokens are new."""
        for request, written in zip(requests, done, strict=True):
            self._group(request.group).note(request, written)
        return [
            self._group(r.group).following([*r.prefix[-LONGEST:], *written[-LONGEST:]], length)
            if length
            else []
            for r, written, length in zip(requests, done, lengths, strict=True)
        ]
