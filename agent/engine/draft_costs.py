"""What a step and a drafted token cost, measured once for some numbers of texts.

At first in a short context. In a long one, where a step reads far more keys and values than
weights, it is measured when the first long text comes, and costs between lie on a line.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from agent.engine.decode import DecodeLoop
from agent.engine.draft_choice import Costs, DraftSource
from agent.engine.feed import feed
from agent.engine.job_cache import Cache
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.engine.torch_engine import TorchEngine


def measured_costs(
    engine: TorchEngine, sources: Sequence[DraftSource], rows: Sequence[int], most: int
) -> dict[int, Costs]:
    """Costs by number of texts in a short context, up to `most` tokens drafted."""
    columns = min(SHORT, engine.network.arch.max_positions // 2)
    return {num: draft_costs(engine, sources, columns, num, most) for num in rows}


def costs_of_long(
    engine: TorchEngine, sources: Sequence[DraftSource], most: int, num: int, short: Costs
) -> Costs:
    """The costs of `num` texts with what each column of a long context adds to them.

    Sources that draft in a long context alone are measured there for the first time, in half as
    long a one, too.
    """
    fitting = LONG_BYTES // (num * engine.network.kv_bytes)
    columns = min(LONG, engine.network.arch.max_positions // 2, fitting)
    if columns < 4 * short.columns:
        return replace(short, column_s=dict.fromkeys(short.step_s, 0.0))
    long = draft_costs(engine, sources, columns, num, most)
    more = columns - short.columns
    column_s = {k: max(0.0, (long.step_s[k] - s) / more) for k, s in short.step_s.items()}
    draft_s, draft_column_s = dict(short.draft_s), {}
    for name, seconds_there in long.draft_s.items():
        if name not in short.draft_s:
            alone = [source for source in sources if source.name == name]
            half = draft_costs(engine, alone, columns // 2, num, most).draft_s.get(name)
            slope = max(0.0, seconds_there - half) / (columns - columns // 2) if half else 0.0
            draft_s[name], draft_column_s[name] = seconds_there - slope * more, slope
        else:
            draft_column_s[name] = max(0.0, seconds_there - draft_s[name]) / more
    return replace(short, column_s=column_s, draft_s=draft_s, draft_column_s=draft_column_s)


@torch.inference_mode()
def draft_costs(
    engine: TorchEngine, sources: Sequence[DraftSource], columns: int, num: int, most: int
) -> Costs:
    """Seconds of a step and of a drafted token with `num` texts of so many columns, up to `most`
    drafted; of sources that draft there."""
    prefix = (max(engine.ends),) * columns
    requests = [CompletionRequest(prefix, most + 2, 1.0, i, group=-1 - i) for i in range(num)]
    cache = Cache(engine.network, has_room_ahead=False)
    cache.open([columns] * num)  # what the columns hold costs nothing
    jobs = np.arange(num)
    # As if each draft before had been refused: that is when most has to be done again.
    done = itertools.cycle([[[token]] * num for token in (prefix[-1], 0)])
    loop = DecodeLoop(engine.network, cache)
    parameters = SamplingParameters.of(requests, engine.network.device)

    def written() -> None:
        loop.run([prefix[-1]] * num, [1] * num, parameters, loop.num_steps)
        cache.lengths -= loop.num_steps

    def step_s(tokens: int) -> float:
        if tokens == 1:  # what is written without a draft
            return seconds(written) / loop.num_steps
        position = torch.ones(num, dtype=torch.int64, device=engine.network.device)
        draft_NK = torch.zeros((num, tokens - 1), dtype=torch.int64, device=position.device)

        def verified() -> None:
            hidden = feed(engine.network, cache, jobs, [[prefix[-1]] * tokens] * num)
            logits_NQV = engine.network.logits(hidden).view(num, tokens, -1)
            parameters.choose(logits_NQV, draft_NK, position).tokens.tolist()
            cache.lengths -= tokens

        return seconds(verified)

    def draft_s(source: DraftSource) -> float:
        return seconds(lambda: source.draft(requests, next(done), [most] * num, cache)) / most

    return Costs(
        {tokens: step_s(tokens) for tokens in sorted({1, 2, most + 1})},
        {s.name: draft_s(s) for s in sources if columns >= s.least_columns},
        columns,
    )


SHORT = 32
"""Columns of a short context."""
LONG = 2048
"""Columns of a long one, at most."""
LONG_BYTES = 2**29
"""Of the keys and values that a long context is measured with, at most."""
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
