"""Decoding: the next tokens of every text under way, a path of its own beside prefill.

One token a job, all jobs of the cache, in their order. On a GPU a step is captured in a graph, once
for each number of rows (a few sizes, the rest padding), and replayed several times before the host
looks at what was written: a step is some hundred small kernels, and to launch them one by one costs
five times what they do. A text that ends within those steps has its rest dropped by the caller.
Elsewhere the same code runs step by step.

Capturing: NVIDIA, "CUDA graphs"; sizes as buckets are usual in serving (vLLM, SGLang).

Shapes: N jobs, B rows of a bucket, S steps, V vocabulary.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agent.engine.job_cache import Cache
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork
from kernels.dispatch import next_tokens

STEPS = 8
"""Tokens that a text writes on a GPU before the host sees them."""
BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
log = logging.getLogger(__name__)


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
        self.graph: Any = None


class DecodeLoop:
    """Decodes the jobs of one cache."""

    def __init__(self, network: InferenceNetwork, cache: Cache) -> None:
        self.network, self.cache = network, cache
        self.is_captured = network.device.type == "cuda"
        """Whether steps go into graphs; no longer, once one could not."""
        self.rows: dict[int, _Rows] = {}
        self._seen: tuple[int, ...] = ()
        """Where the cache lay when graphs were captured: they hold its addresses."""
        self._pool: Any = None

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
        first = self.cache.append(np.arange(num), np.full(num, num_steps))
        size = self._size(num)
        self.cache.reserve(size, self.cache.num_columns)
        if size not in self.rows:
            self.rows[size] = _Rows(size, self.network.device)
        rows = self.rows[size]
        state = np.zeros((3, size), np.int64)
        state[0, :num], state[1, :num], state[2, :num] = tokens, first, places
        step = self._ready(rows, num, state, parameters)
        for _ in range(num_steps):
            step()
        written = rows.tokens[:num_steps, :num].t().tolist()
        scores: NDArray[np.float32] = rows.scores[:num_steps, :, :num].cpu().numpy()
        raw, processed, is_bad = (scores[:, i].T for i in range(3))
        return Decoded(written, raw.tolist(), processed.tolist(), (is_bad > 0).tolist())

    def _size(self, num: int) -> int:
        if not self.is_captured:
            return num
        return next((size for size in BUCKETS if size >= num), num)

    def _ready(
        self, rows: _Rows, num: int, state: NDArray[np.int64], parameters: SamplingParameters
    ) -> Any:
        """Set the rows' state; returns what does one step."""

        def fill() -> None:
            rows.numbers[:3].copy_(torch.from_numpy(state))
            rows.numbers[3, :num].copy_(parameters.seeds_N)
            rows.temperature[:num].copy_(parameters.temperature_N)
            rows.step.zero_()

        def step() -> None:
            self._step(rows, parameters, num)

        if self.is_captured and not parameters.is_filtered:
            self._check_addresses()
            if rows.graph is None:
                # The first run compiles kernels; it writes what the step itself will write again.
                fill()
                rows.graph = self._captured(step)
        fill()
        return step if rows.graph is None or parameters.is_filtered else rows.graph.replay

    def _check_addresses(self) -> None:
        """Graphs of a cache that has moved are gone."""
        layers = self.cache.layers
        seen = tuple(layer.data_ptr() for layer in layers) + tuple(layers[0].shape)
        if seen != self._seen:
            self._seen = seen
            for rows in self.rows.values():
                rows.graph = None

    def _captured(self, step: Any) -> Any:
        try:
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                step()
        except RuntimeError as error:
            self.is_captured = False
            log.warning(
                "decoding goes on without a CUDA graph, slower: %s", str(error).splitlines()[0]
            )
            return None
        return graph

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
        chosen = found.tokens[:, 0]
        is_bad = ~torch.isfinite(logits.sum(dim=1))
        scores = torch.stack((found.logprob[:, 0], found.processed_logprob[:, 0], is_bad.float()))
        rows.tokens[:, : len(chosen)].index_copy_(0, rows.step, chosen[None])
        rows.scores[:, :, : len(chosen)].index_copy_(0, rows.step, scores[None])
        tokens[: len(chosen)].copy_(chosen)
        rows.numbers[1:3].add_(1)
        rows.step.add_(1)
