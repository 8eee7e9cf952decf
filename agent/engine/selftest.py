"""Whether an engine writes with the distribution that it should: a test before it may draft.

Texts of three tokens are drawn at a temperature above 0, with drafts if there is a drafter, and
counted by (first, second, third) token against the exact joint distribution, which the engine's
own next-token probabilities give. A wrong acceptance rule shows in the second and third token.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from agent.engine.draft_choice import Drafter, SelfTest
from agent.engine.requests import Completion, CompletionRequest

NUM_TOKENS = 3
NUM_LIKELY = 5
"""Most probable tokens that are told apart at each place; the others are one."""
LEAST_EXPECTED = 5.0
SECONDS = 8.0
BATCH = 512


class Sampler(Protocol):
    """The part of an engine that the test looks at."""

    ends: frozenset[int]

    def completions(
        self, requests: Sequence[CompletionRequest], drafter: Drafter | None = None
    ) -> list[Completion]: ...

    def next_logprobs(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """log p(next token | row) at temperature 1, [N, V]."""
        ...


def run_selftest(
    sampler: Sampler,
    prefix: tuple[int, ...],
    drafter: Drafter | None = None,
    temperature: float = 0.8,
    num_texts: int = 4096,
    limit_s: float = SECONDS,
) -> SelfTest:
    """Test texts after a prefix: as many as wanted, or as `limit_s` seconds are enough for."""
    started = time.monotonic()
    distribution = joint_distribution(sampler, prefix, temperature)
    counts: Counter[tuple[int, ...]] = Counter()
    drafted = accepted = num = 0
    while num < num_texts and (not num or time.monotonic() - started < limit_s):
        requests = [
            CompletionRequest(prefix, NUM_TOKENS, temperature, seed, group=seed % 7)
            for seed in range(num, min(num_texts, num + BATCH))
        ]
        for text in sampler.completions(requests, drafter):
            counts[text.generated.tokens] += 1
            drafted += text.num_drafted
            accepted += text.num_accepted
        num += len(requests)
    statistic, df = chi_square(counts, distribution, num)
    return SelfTest(
        statistic,
        df,
        p_value(statistic, df),
        num,
        drafted,
        accepted,
        temperature,
        round(time.monotonic() - started, 2),
    )


def joint_distribution(
    sampler: Sampler, prefix: tuple[int, ...], temperature: float
) -> dict[tuple[int, ...], float]:
    """Exact probabilities of the likeliest texts of at most three tokens."""
    whole: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 1.0}
    for depth in range(NUM_TOKENS):
        rows = list(open_)
        processed = sampler.next_logprobs([prefix + row for row in rows]).double() / temperature
        probability = torch.softmax(processed, dim=-1)
        top, index = probability.topk(min(NUM_LIKELY, probability.shape[1]), dim=1)
        grown: dict[tuple[int, ...], float] = {}
        for row, ps, tokens in zip(rows, top.tolist(), index.tolist(), strict=True):
            for p, token in zip(ps, tokens, strict=True):
                is_whole = token in sampler.ends or depth + 1 == NUM_TOKENS
                (whole if is_whole else grown)[(*row, token)] = open_[row] * p
        open_ = grown
        if not open_:
            break
    return whole


def chi_square(
    counts: Counter[tuple[int, ...]], distribution: dict[tuple[int, ...], float], num: int
) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; what is expected rarely counts together."""
    expected = {text: num * p for text, p in distribution.items() if num * p >= LEAST_EXPECTED}
    statistic, left, seen = 0.0, float(num), num
    for text, wanted in expected.items():
        statistic += (counts[text] - wanted) ** 2 / wanted
        left -= wanted
        seen -= counts[text]
    bins = len(expected)
    if left >= LEAST_EXPECTED:
        statistic += (seen - left) ** 2 / left
        bins += 1
    return statistic, max(1, bins - 1)


def p_value(statistic: float, df: int) -> float:
    """Probability of a chi-square at least so large."""
    if not math.isfinite(statistic):
        return 0.0
    half = torch.tensor([df / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
