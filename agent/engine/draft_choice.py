"""Speculative decoding that changes the speed and nothing else.

The policy's token at a position is argmax(log p + noise) under its distribution. The noise is a
pure function of (seed, position, token). A source of drafts that adds the same noise to its own
log-probabilities is right whenever the two maxima agree. A drafted token is kept exactly when it is
the policy's own choice; the first other one is replaced by that choice. What is written is
therefore the same, token for token, with any drafts and none, at any temperature and filter.

Which source drafts, and how many tokens, is chosen for the number of texts at hand from costs
measured at start and the running acceptance of each source; none is a legal choice and, with many
texts on a CPU, the usual one.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.engine.job_cache import Cache
from agent.engine.requests import CompletionRequest

log = logging.getLogger("ratchet")

WORTHWHILE = 1.1
"""Least expected speed-up that a draft is made for."""
MEMORY = 0.98
"""Weight of what was seen before in the running acceptance, a drafted token."""
LEAST_P = 1e-4
"""Of the self-test; below it there are no drafts above temperature 0."""
LONG_COLUMNS = 512
"""Columns of a text from which costs are measured in a long context too."""
TRIAL_EVERY = 128
"""Steps after which a source that does not pay is tried once more, where any could pay."""


class DraftSource(Protocol):
    """Whoever can guess how texts go on."""

    name: str

    @property
    def least_columns(self) -> int:
        """Of a text that it drafts for: 0 for a source that drafts for all."""
        ...

    def for_short_texts(self) -> "DraftSource":
        """The same source where texts are as short as those of a self-test."""
        ...

    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        """For each request, which has written `done` so far, at most `lengths` more tokens.

        Job i of the cache is text i: the policy's keys and values of all its tokens but the last.
        """
        ...


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured seconds of a step and of a drafted token with one number of texts.

    Both are measured in a short context; those of a long one, once it is met, lie with them on a
    line.
    """

    step_s: dict[int, float]
    """Policy forward by tokens a text: 1 and more."""
    draft_s: dict[str, float]
    """One drafted token by source."""
    columns: int = 0
    """Of the context in which they were measured."""
    column_s: dict[int, float] = field(default_factory=dict)
    """Further seconds of a policy forward for each column more, by tokens a text."""
    draft_column_s: dict[str, float] = field(default_factory=dict)
    """The same of one drafted token by source."""

    def verify_s(self, tokens: float, columns: int = 0) -> float:
        """Policy forward of this many tokens a text over so many columns."""
        found = on_line(self.step_s, tokens)
        if self.column_s:
            found += max(0, columns - self.columns) * on_line(self.column_s, tokens)
        return found

    def drafted_s(self, source: str, columns: int = 0) -> float:
        """One drafted token of that source where texts have so many columns."""
        slope = self.draft_column_s.get(source, 0.0)
        return self.draft_s[source] + max(0, columns - self.columns) * slope


def on_line(measured: dict[int, float], at: float) -> float:
    """Between measured numbers, and beyond them, on a line."""
    known = sorted(measured)
    above = next((k for k in known[1:] if k >= at), known[-1])
    below = known[known.index(above) - 1]
    slope = (measured[above] - measured[below]) / (above - below)
    return measured[below] + slope * (at - below)


def expected_tokens(acceptance: float, length: int) -> float:
    """Tokens that a step writes: E = (1 - a^(g+1)) / (1 - a) (Leviathan et al. 2023, eq. 1)."""
    a = min(acceptance, 0.999)
    return (1 - a ** (length + 1)) / (1 - a)


def expected_speedup(
    costs: Costs,
    source: str,
    acceptance: float,
    length: int,
    coverage: float = 1.0,
    columns: int = 0,
) -> float:
    """Speed-up over plain decoding: E T(1) / (g D + T(g + 1)), all over so many columns.

    A source that has drafts for a share of the texts only gains, and costs, that much less.
    """
    tokens = 1 + coverage * (expected_tokens(acceptance, length) - 1)
    drafted = length * costs.drafted_s(source, columns)
    spent = drafted + costs.verify_s(1 + coverage * length, columns)
    return tokens * costs.verify_s(1, columns) / spent


@dataclass(slots=True)
class Record:
    """What is known of a source's drafts."""

    acceptance: float = 0.7
    """Running share of tokens, up to the first wrong one, that were the policy's choice."""
    coverage: float = 1.0
    """Running share of the tokens asked for that the source had something for."""
    num_drafted: int = 0
    num_tried: int = 0
    """Drafted tokens up to the first wrong one of each draft."""
    num_accepted: int = 0
    num_drafts: int = 0

    def note(self, drafted: int, accepted: int, asked: int) -> None:
        """The result of one draft, of this many tokens asked for."""
        if asked:
            self.coverage += (1 - MEMORY) * (drafted / asked - self.coverage)
        if not drafted:
            return
        tried = min(drafted, accepted + 1)
        self.num_drafts += 1
        self.num_drafted += drafted
        self.num_tried += tried
        self.num_accepted += accepted
        self.acceptance += (1 - MEMORY**tried) * (accepted / tried - self.acceptance)

    @property
    def accepted_length(self) -> float:
        """Mean tokens accepted of a draft."""
        return self.num_accepted / self.num_drafts if self.num_drafts else 0.0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The result of an engine's self-test (agent/engine/selftest.py)."""

    statistic: float
    """Pearson's chi-square."""
    df: int
    p_value: float
    num_texts: int
    num_drafted: int
    num_accepted: int
    temperature: float
    seconds: float

    @property
    def is_passed(self) -> bool:
        return self.p_value >= LEAST_P

    def describe(self) -> str:
        return (
            f"chi-square {self.statistic:.0f} at {self.df} degrees of freedom, "
            f"p = {self.p_value:.2g}, {self.num_texts} texts at temperature {self.temperature:g}, "
            f"{self.num_accepted} of {self.num_drafted} drafted tokens accepted"
        )


@dataclass(slots=True)
class Drafter:
    """Sources of drafts and what is known of their worth."""

    sources: Sequence[DraftSource]
    max_length: int = 4
    mode: str = "auto"
    """`auto` decides by costs, `always` drafts whatever it costs, `never` does not draft."""
    costs: dict[int, Costs] = field(default_factory=dict)
    """By number of texts; the nearest measured number is used."""
    lengthened: "Callable[[int, Costs], Costs] | None" = None
    """Measures the costs of so many texts in a long context too, when one is met."""
    records: dict[str, Record] = field(default_factory=dict)
    selftest: "Callable[[Drafter], SelfTest] | None" = None
    """The engine's test, run before the first draft above temperature 0."""
    policy: str = ""
    drafter: str = ""
    """Versions of the two models."""
    verdict: SelfTest | None = None
    """Its result; empty before."""
    _num_steps: int = 0

    def record(self, source: str) -> Record:
        return self.records.setdefault(source, Record())

    def costs_at(self, num_texts: int, columns: int) -> Costs:
        """What was measured for about so many texts; in a long context, where they have that."""
        num = min(self.costs, key=lambda rows: abs(rows - num_texts))
        costs = self.costs[num]
        if columns >= LONG_COLUMNS and not costs.column_s and self.lengthened is not None:
            costs = self.costs[num] = self.lengthened(num, costs)
        return costs

    def plan(self, num_texts: int, columns: int = 0) -> tuple[DraftSource | None, int]:
        """The source and the tokens to draft for this many texts, the longest of so many columns;
        (None, 0) when none would pay."""
        if self.mode == "never" or not self.sources:
            return None, 0
        if self.mode == "always":
            fitting = [s for s in self.sources if s.least_columns <= columns]
            if not fitting:
                return None, 0
            return fitting[self._num_steps % len(fitting)], self.max_length
        if not self.costs:
            return None, 0
        costs = self.costs_at(num_texts, columns)
        sources = [
            s for s in self.sources if s.name in costs.draft_s and s.least_columns <= columns
        ]
        best: tuple[float, DraftSource | None, int] = (WORTHWHILE, None, 0)
        for source in sources:
            record = self.record(source.name)
            for length in range(1, self.max_length + 1):
                worth = expected_speedup(
                    costs, source.name, record.acceptance, length, record.coverage, columns
                )
                if worth > best[0]:
                    best = (worth, source, length)
        if best[1] is None and self._num_steps % TRIAL_EVERY == TRIAL_EVERY - 1:
            # What has been guessed badly so far may be guessed well in later texts.
            for source in sources:
                if expected_speedup(costs, source.name, 0.8, 2, columns=columns) > WORTHWHILE:
                    return source, 2
        return best[1], best[2]

    def drafts(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        room: Sequence[int],
        cache: Cache,
    ) -> "Drafts":
        """Drafts for all texts, none longer than its room; the cache's job i is text i."""
        longest = max(len(r.prefix) + len(d) for r, d in zip(requests, done, strict=True))
        source, length = self.plan(len(requests), longest)
        self._num_steps += max(room, default=0) > 0  # sources take turns where one can draft
        if source is None or not self._is_allowed(requests):
            return NONE
        lengths = [max(0, min(length, r)) for r in room]
        return Drafts(source.name, source.draft(requests, done, lengths, cache), lengths)

    def prove(self, requests: Sequence[CompletionRequest]) -> None:
        """Run the self-test, once, before a batch that drafts might be made for."""
        if self.selftest is None or self.verdict is not None:
            return
        if not any(r.temperature for r in requests) or not self._could_pay(requests):
            return
        tested = [source.for_short_texts() for source in self.sources]
        self.verdict = self.selftest(Drafter(tested, self.max_length, "always"))
        if not self.verdict.is_passed:
            log.warning(
                "no drafts above temperature 0: the self-test failed, %s", self.verdict.describe()
            )

    def _could_pay(self, requests: Sequence[CompletionRequest]) -> bool:
        """Whether there is a number of texts, as long as these, for which very good drafts would be
        worth it."""
        if self.mode != "auto":
            return self.mode == "always"
        columns = max(len(r.prefix) + r.max_tokens for r in requests)
        if self.costs:
            self.costs_at(len(requests), columns)  # has long texts measured, if these are any
        return any(
            expected_speedup(costs, source, 0.95, length, columns=columns) > WORTHWHILE
            for costs in self.costs.values()
            for source in costs.draft_s
            for length in range(1, self.max_length + 1)
        )

    def _is_allowed(self, requests: Sequence[CompletionRequest]) -> bool:
        """Greedy texts are the same whatever is drafted; others need a test that was passed."""
        if self.selftest is None or (self.verdict is not None and self.verdict.is_passed):
            return True
        return not any(r.temperature for r in requests)

    def report(self) -> dict[str, Any]:
        """Acceptance and accepted length of each source, the cost table, and the self-test."""
        return {
            "mode": self.mode,
            "policy": self.policy,
            "drafter": self.drafter,
            "sources": {
                name: {
                    "acceptance": round(record.acceptance, 4),
                    "accepted_length": round(record.accepted_length, 3),
                    "coverage": round(record.coverage, 4),
                    "drafted": record.num_drafted,
                    "accepted": record.num_accepted,
                }
                for name, record in self.records.items()
            },
            "costs_ms": {
                str(rows): {
                    "step": _in_ms(costs.step_s),
                    "draft": _in_ms(costs.draft_s),
                    "step_1000_columns": _in_ms(costs.column_s, 1000),
                    "draft_1000_columns": _in_ms(costs.draft_column_s, 1000),
                }
                for rows, costs in self.costs.items()
            },
            "selftest": self.verdict.describe() if self.verdict else "not needed yet",
        }

    def note(self, drafts: "Drafts", accepted: Sequence[int]) -> None:
        """How many tokens of each draft were accepted."""
        record = self.record(drafts.source)
        for draft, num, asked in zip(drafts.tokens, accepted, drafts.asked, strict=True):
            record.note(len(draft), num, asked)


@dataclass(frozen=True, slots=True)
class Drafts:
    """One draft a text, or none at all."""

    source: str
    tokens: Sequence[Sequence[int]]
    asked: Sequence[int]
    """Tokens that each draft might have had."""


def _in_ms(seconds: Mapping[Any, float], times: int = 1) -> dict[str, float]:
    return {str(k): round(1e3 * times * s, 4) for k, s in seconds.items()}


NONE = Drafts("", (), ())
