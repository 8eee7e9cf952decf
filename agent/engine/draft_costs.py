"""What a step and a drafted token cost, measured once for some numbers of texts."""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from agent.engine.decode import DecodeLoop
from agent.engine.draft_choice import Costs, DraftSource
from agent.engine.feed import feed, prefill
from agent.engine.job_cache import Cache
from agent.engine.prefix_cache import Prefix
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.engine.torch_engine import TorchEngine


def measured_costs(
    engine: TorchEngine, sources: Sequence[DraftSource], rows: Sequence[int], most: int
) -> dict[int, Costs]:
    """Costs by number of texts, up to `most` tokens drafted. A short context is enough."""
    start = tuple([max(engine.ends)] * min(32, engine.network.arch.max_positions // 2))
    return {num: draft_costs(engine, sources, start, num, most) for num in rows}


@torch.inference_mode()
def draft_costs(
    engine: TorchEngine,
    sources: Sequence[DraftSource],
    prefix: tuple[int, ...],
    num: int,
    most: int,
) -> Costs:
    """Seconds of a step and of a drafted token with `num` texts, up to `most` drafted."""
    requests = [CompletionRequest(prefix, most + 2, 1.0, i, group=-1 - i) for i in range(num)]
    cache = Cache(engine.network, has_room_ahead=False)
    jobs = prefill(engine.network, cache, engine.tree, [Prefix(prefix)] * num).jobs
    jobs.sort()
    done = [[prefix[-1]] for _ in requests]
    loop = DecodeLoop(engine.network, cache)
    parameters = SamplingParameters.of(requests, engine.network.device)

    def several() -> None:
        loop.run([prefix[-1]] * num, [1] * num, parameters, loop.num_steps)
        cache.lengths -= loop.num_steps

    def step_s(tokens: int) -> float:
        if tokens == 1 and loop.num_steps > 1:  # what is written without a draft
            return seconds(several) / loop.num_steps

        def step() -> None:
            feed(engine.network, cache, jobs, [[prefix[-1]] * tokens] * num)
            cache.lengths -= tokens

        return seconds(step)

    def draft_s(source: DraftSource) -> float:
        return seconds(lambda: source.draft(requests, done, [most] * num)) / most

    return Costs(
        {tokens: step_s(tokens) for tokens in sorted({1, 2, most + 1})},
        {source.name: draft_s(source) for source in sources},
    )


ENOUGH_S = 0.2
"""Seconds after which no further run is timed: a step of a large model is no matter of chance."""


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Of one run, the best of several: what else the machine does only ever adds."""
    best, spent = math.inf, 0.0
    for took in _timed(run, repeats):
        best, spent = min(best, took), spent + took
        if spent > ENOUGH_S:
            break
    return best


def _timed(run: Callable[[], object], repeats: int) -> Iterator[float]:
    run()
    for _ in range(repeats):
        _await_device()
        start = time.perf_counter()
        run()
        _await_device()
        yield time.perf_counter() - start


def _await_device() -> None:
    """A GPU is given its work and goes on by itself."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
