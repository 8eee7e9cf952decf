"""Speculative decoding that changes the speed and nothing else.

The policy's token at a position is argmax(log p / T + noise), the noise a pure function of (seed,
position, token). The drafter adds the same noise to its own log-probabilities, so its guess is
right whenever the perturbed maxima agree. A drafted token is kept exactly when it is the policy's
own choice; the first other one is replaced by that choice. What is written is therefore the same,
token for token, with any drafter, any draft length, and none.

The draft length is chosen for the number of rows at hand from costs measured at start and the
running acceptance; 0 is a legal choice and, with many rows on a CPU, the usual one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from agent.engine.requests import TextRequest
from kernels import dispatch


class DraftSource(Protocol):
    """Whoever can guess how texts go on."""

    def draft(
        self, requests: Sequence[TextRequest], done: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> list[list[int]]:
        """For each request, which has written `done` so far, at most `lengths` more tokens."""
        ...


@dataclass(slots=True)
class Costs:
    """Measured seconds for a number of rows: policy step of 1 and of g + 1 tokens, draft of g."""

    step_s: float
    verify_s: float
    draft_s: float


@dataclass(slots=True)
class Drafter:
    """A source of drafts and what is known of its worth."""

    source: DraftSource
    max_length: int = 4
    mode: str = "auto"
    """`auto` decides by costs, `always` drafts whatever it costs, `never` does not draft."""
    acceptance: float = 0.7
    """Running share of drafted tokens that were the policy's choice."""
    costs: dict[int, Costs] = field(default_factory=dict)
    """By number of rows; the nearest measured number is used."""

    def draft(
        self, requests: Sequence[TextRequest], done: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> list[list[int]]:
        return self.source.draft(requests, done, lengths)


def expected_speedup(costs: Costs, acceptance: float, length: int) -> float:
    """Speed-up over plain decoding: E T(1) / (g D + T(g + 1)), E = (1 - a^(g+1)) / (1 - a)."""
    a = min(acceptance, 0.999)
    tokens = (1 - a ** (length + 1)) / (1 - a)
    return tokens * costs.step_s / (costs.draft_s + costs.verify_s)


def draft_length(drafter: Drafter, num_rows: int) -> int:
    """Tokens to draft for this many rows; 0 when drafting would not pay."""
    if drafter.mode == "never":
        return 0
    if drafter.mode == "always":
        return drafter.max_length
    if not drafter.costs:
        return 0
    costs = drafter.costs[min(drafter.costs, key=lambda rows: abs(rows - num_rows))]
    worth = expected_speedup(costs, drafter.acceptance, drafter.max_length)
    return drafter.max_length if worth > 1.03 else 0


def accept(drafts: Sequence[Sequence[int]], choice_NQ: Tensor) -> list[int]:
    """How many leading tokens of each draft are the policy's own choice."""
    longest = max(len(d) for d in drafts)
    if longest == 0:
        return [0] * len(drafts)
    draft_NQ = torch.full((len(drafts), longest), -1, dtype=torch.long, device=choice_NQ.device)
    for i, draft in enumerate(drafts):
        draft_NQ[i, : len(draft)] = torch.tensor(draft, dtype=torch.long)
    lengths = torch.tensor([len(d) for d in drafts], device=choice_NQ.device)
    return [int(n) for n in dispatch.count_accepted(draft_NQ, choice_NQ, lengths)]


def measure(seconds_of: "dict[str, object]") -> Costs:
    """Best of three runs of each callable in `step`, `verify`, `draft`."""
    best: dict[str, float] = {}
    for name, run in seconds_of.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()  # type: ignore[operator]
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    return Costs(best["step"], best["verify"], best["draft"])
