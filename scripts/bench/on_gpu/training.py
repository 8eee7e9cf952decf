"""A training step of our loop: tokens a second, model-flop utilisation, peak memory.

Random weights and rows; AdamW on float32 weights, products in bfloat16. Utilisation counts six
operations a parameter and token (PaLM, arXiv 2204.02311, appendix B) against the measured ceiling.
"""

import time
from collections.abc import Iterator
from itertools import pairwise

from scripts.bench.on_gpu.decoding import SHAPES, TINY, random_model
from scripts.bench.on_gpu.device import IS_GPU, ceilings

import torch  # isort: skip

from scripts.bench.report import Row, missing, repeats  # isort: skip

ROWS, LENGTH = (48, 256) if IS_GPU else (4, 8)
STEPS = 8 if IS_GPU else 2


def measured(is_quick: bool) -> Iterator[Row]:
    try:
        import agent.training.fit  # noqa: F401
    except ModuleNotFoundError as error:
        yield missing("training", f"{error.name} is not installed here")
        return
    flops = ceilings()[0] if IS_GPU else 0.0
    shapes = SHAPES if IS_GPU else TINY
    for name, shape in list(shapes.items())[: 1 if is_quick else None]:
        yield from _of(name, shape, flops)
        if IS_GPU:
            torch.cuda.empty_cache()


def _of(name: str, shape: tuple[int, ...], flops: float) -> Iterator[Row]:
    from agent.training.fit import Batch, FitPlan, fit
    from agent.training.logprobs import summed_logprobs
    from agent.training.optimizer import TrainingSettings

    model = random_model(shape).float()
    size = sum(p.numel() for p in model.parameters())
    rows = [tuple(torch.randint(3, shape[-1], (LENGTH,)).tolist()) for _ in range(ROWS)]
    marks: list[float] = []

    def loss_of(batch: Batch) -> torch.Tensor:
        mine = [rows[i] for i in batch.rows]
        return -summed_logprobs(model, mine, [1] * len(mine)) / (len(batch.all_rows) * LENGTH)

    def mark(step: int) -> None:
        if IS_GPU:
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    if IS_GPU:
        torch.cuda.reset_peak_memory_stats()
    settings = TrainingSettings(num_steps=STEPS, batch_size=ROWS, max_epochs=1000.0)
    plan = FitPlan([LENGTH] * ROWS, ROWS, STEPS, settings, 0, is_additive=True)
    start = time.perf_counter()
    fit(model, plan, loss_of, after_step=mark)
    steps = [b - a for a, b in pairwise(marks)]
    why = f"{ROWS} rows of {LENGTH} tokens, AdamW in float32, products in bfloat16"
    yield repeats(f"train_{name}_first_step", [marks[0] - start], "s", "compiles and warms up")
    yield repeats(f"train_{name}", [ROWS * LENGTH / s for s in steps], "tokens/s", why)
    if IS_GPU:
        used = [6 * size * ROWS * LENGTH / s / (flops * 1e12) for s in steps]
        yield repeats(f"train_{name}_utilisation", used, "share", f"of {flops:.0f} TFLOP/s")
        peak = torch.cuda.max_memory_allocated() / 2**30
        least = 16 * size / 2**30
        yield repeats(f"train_{name}_memory", [peak], "GiB", f"weights and AdamW {least:.1f}")
