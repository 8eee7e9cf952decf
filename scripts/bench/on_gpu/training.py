"""A training step of our loop: tokens a second, model-flop utilisation, peak memory.

Random weights and rows; AdamW on float32 weights, products in bfloat16: all weights, or adapters on
weights in bfloat16. Utilisation counts six operations a parameter and token (PaLM, arXiv
2204.02311, appendix B), with adapters four, against the measured ceiling. Beside each peak stands
what `agent/gpu_plan.py` had said.
"""

import time
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from scripts.bench.on_gpu.decoding import SHAPES, TINY, random_model
from scripts.bench.on_gpu.device import IS_GPU, ceilings

import torch  # isort: skip

from scripts.bench.report import Row, missing, repeats  # isort: skip

if TYPE_CHECKING:
    from agent.networks.language_model import LanguageModel

ROWS, LENGTH = (48, 256) if IS_GPU else (4, 8)
STEPS = 8 if IS_GPU else 2
RANK = 16
EIGHT_BILLION = (36, 4096, 32, 8, 128, 12_288, 151_936)
"""As Qwen3-8B, but that embeddings and head are one."""


def measured(is_quick: bool) -> Iterator[Row]:
    try:
        import agent.training.fit  # noqa: F401
    except ModuleNotFoundError as error:
        yield missing("training", f"{error.name} is not installed here")
        return
    flops = ceilings()[0] if IS_GPU else 0.0
    shapes = SHAPES if IS_GPU else TINY
    arms = [(name, shape, rank) for name, shape in shapes.items() for rank in (0, RANK)]
    if IS_GPU:
        arms.append(("8b", EIGHT_BILLION, RANK))
    for name, shape, rank in arms[: 2 if is_quick else None]:
        try:
            yield from _of(name, shape, rank, flops)
        except torch.OutOfMemoryError as error:
            yield missing(f"train_{name}{_suffix(rank)}", str(error).splitlines()[0])
        if IS_GPU:
            torch.cuda.empty_cache()


def _suffix(rank: int) -> str:
    return "_adapters" if rank else ""


def _adapted(model: "LanguageModel") -> "LanguageModel":
    """With new adapters and norms in float32, all else as it is."""
    from agent.networks.adapter_shape import AdapterShape

    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.float()
    model.adapt(AdapterShape.of_rank(RANK))
    model.begin(0)
    return model


def _of(name: str, shape: tuple[int, ...], rank: int, flops: float) -> Iterator[Row]:
    from agent.gpu_plan import BEST_BYTES, CONTEXT_BYTES, GPUS, Work, training_ways
    from agent.training.fit import Batch, FitPlan, fit
    from agent.training.logprobs import summed_logprobs
    from agent.training.optimizer import TrainingSettings

    low = random_model(shape)
    model = _adapted(low) if rank else low.float()
    size = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    name += _suffix(rank)
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
    settings = TrainingSettings(num_steps=STEPS, batch_size=ROWS, max_epochs=1000.0, lora_rank=rank)
    plan = FitPlan([LENGTH] * ROWS, ROWS, STEPS, settings, 0, is_additive=True)
    start = time.perf_counter()
    fit(model, plan, loss_of, after_step=mark)
    steps = [b - a for a, b in pairwise(marks)]
    why = f"{ROWS} rows of {LENGTH} tokens, AdamW in float32, products in bfloat16"
    yield repeats(f"train_{name}_first_step", [marks[0] - start], "s", "compiles and warms up")
    yield repeats(f"train_{name}", [ROWS * LENGTH / s for s in steps], "tokens/s", why)
    if IS_GPU:
        used = [(4 if rank else 6) * size * ROWS * LENGTH / s / (flops * 1e12) for s in steps]
        yield repeats(f"train_{name}_utilisation", used, "share", f"of {flops:.0f} TFLOP/s")
        peak = torch.cuda.max_memory_allocated() / 2**30
        way = training_ways(model.arch, GPUS["h200"], 1, Work(LENGTH, ROWS, RANK))[
            -1 if rank else 0
        ]
        planned = (way.num_bytes - CONTEXT_BYTES - BEST_BYTES * trained) / 2**30
        yield repeats(f"train_{name}_memory", [peak], "GiB", f"planned {planned:.1f}")
