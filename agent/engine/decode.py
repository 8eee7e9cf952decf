"""Decoding: the next tokens of every text under way, a path of its own beside prefill.

One token a job, all jobs of the cache, in their order. On a GPU a step is a graph, and several run
before the host looks at what was written; a text that ends within them has its rest dropped by the
caller. Elsewhere the same code runs step by step.

Shapes: N jobs, B rows of a bucket, S steps, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from agent.engine.graphs import bucket
from agent.engine.job_cache import Cache
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork
from kernels.dispatch import next_tokens

STEPS = 8
"""Tokens that a text writes on a GPU before the host sees them."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the jobs wrote, [N, S] each."""

    tokens: list[list[int]]
    logprob: list[list[float]]
    """At temperature 1."""
    processed_logprob: list[list[float]]
    """Under the distribution they were drawn from."""
    is_bad: list[list[bool]]
    """Whether the logits before the token were not finite."""


class _Rows:
    """State of a bucket's rows, at addresses that stay."""

    def __init__(self, num: int, device: torch.device) -> None:
        self.numbers = torch.zeros((4, num), dtype=torch.int64, device=device)
        """Token to feed, its column, place of the next token in the text, seed."""
        self.temperature = torch.ones(num, device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = torch.zeros((STEPS, num), dtype=torch.int64, device=device)
        self.scores = torch.zeros((STEPS, 3, num), device=device)
        """Of each token: log-probability, processed log-probability, 1 where logits were bad."""


class DecodeLoop:
    """Decodes the jobs of one cache."""

    def __init__(self, network: InferenceNetwork, cache: Cache) -> None:
        self.network, self.cache = network, cache
        self.rows: dict[int, _Rows] = {}

    @property
    def num_steps(self) -> int:
        """Tokens at a time that are worth asking for."""
        return STEPS if self.network.device.type == "cuda" else 1

    def run(
        self,
        tokens: Sequence[int],
        places: Sequence[int],
        parameters: SamplingParameters,
        num_steps: int,
    ) -> Decoded:
        """Feed each job its last token and let it write `num_steps` more, at most STEPS.

        Every job's columns have grown by as many afterwards, one for each token fed: all of what it
        wrote but the last one.
        """
        num = len(tokens)
        size = bucket(num) if self.cache.graphs.is_captured else num
        first = self.cache.append(np.arange(num), np.full(num, num_steps))
        self.cache.reserve(size, self.cache.num_columns)
        if size not in self.rows:
            self.rows[size] = _Rows(size, self.network.device)
        rows = self.rows[size]
        state = np.zeros((3, size), np.int64)
        state[0, :num], state[1, :num], state[2, :num] = tokens, first, places

        def step() -> None:
            self._step(rows, parameters, num)

        if parameters.is_filtered:
            self._fill(rows, state, parameters)
        else:
            step = self.cache.graphs.of(
                ("decode", size), lambda: self._fill(rows, state, parameters), step
            )
        for _ in range(num_steps):
            step()
        written = rows.tokens[:num_steps, :num].t().tolist()
        scores: NDArray[np.float32] = rows.scores[:num_steps].cpu().numpy()
        if size > num and scores[:, 2, num:].any():
            self.cache.wipe(range(num, size))
        raw, processed, is_bad = (scores[:, i, :num].T for i in range(3))
        return Decoded(written, raw.tolist(), processed.tolist(), (is_bad > 0).tolist())

    def _fill(self, rows: _Rows, state: NDArray[np.int64], parameters: SamplingParameters) -> None:
        num = len(parameters.seeds_N)
        rows.numbers[:3].copy_(torch.from_numpy(state))
        rows.numbers[3, :num].copy_(parameters.seeds_N)
        rows.temperature[:num].copy_(parameters.temperature_N)
        rows.step.zero_()

    def _step(self, rows: _Rows, parameters: SamplingParameters, num: int) -> None:
        """One token of each row, all on the device."""
        tokens, columns, places, seeds = rows.numbers
        hidden = self.network.decode(tokens, columns, self.cache.num_columns, self.cache.layers)
        logits = self.network.logits(hidden)
        if parameters.is_filtered:
            logits = logits[:num]
            found = parameters.choose(logits[:, None], tokens.new_empty((num, 0)), places[:num])
        else:
            found = next_tokens(logits, rows.temperature, seeds, places)
        # What is fed next without anybody looking must be a token, whatever the logits were.
        chosen = found.tokens[:, 0].clamp(0, logits.shape[1] - 1)
        is_bad = ~torch.isfinite(logits.sum(dim=1))
        scores = torch.stack((found.logprob[:, 0], found.processed_logprob[:, 0], is_bad.float()))
        rows.tokens[:, : len(chosen)].index_copy_(0, rows.step, chosen[None])
        rows.scores[:, :, : len(chosen)].index_copy_(0, rows.step, scores[None])
        tokens[: len(chosen)].copy_(chosen)
        rows.numbers[1:3].add_(1)
        rows.step.add_(1)
