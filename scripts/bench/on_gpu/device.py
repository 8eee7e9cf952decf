"""The GPU, and how time on it is taken.

Without one the kernels run on Triton's interpreter, as a test of the script; nothing is timed. Ask
this module before torch and Triton are there: the latter reads its switch as it is imported.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from statistics import median
from typing import Any


def has_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool], capture_output=True).returncode == 0


IS_GPU = has_gpu()
if not IS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["RATCHET_KERNELS"] = "triton"

import torch  # noqa: E402

from kernels import dispatch  # noqa: E402
from scripts.bench.report import Row, missing, repeats  # noqa: E402

DEVICE = "cuda" if IS_GPU else "cpu"
DTYPE = torch.bfloat16 if IS_GPU else torch.float32
Call = Callable[[], Any]


def twin(call: Call) -> Call:
    """The same call through the plain-torch twins."""

    def run() -> Any:
        before = os.environ.get(dispatch.SWITCH)
        os.environ[dispatch.SWITCH] = "twin"
        try:
            return call()
        finally:
            if before is None:
                del os.environ[dispatch.SWITCH]
            else:
                os.environ[dispatch.SWITCH] = before

    return run


def in_graph(call: Call) -> Call:
    """The same call captured in a CUDA graph; as it is without a GPU."""
    if not IS_GPU:
        return call
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def milliseconds(call: Call, budget_s: float = 2.0) -> list[float]:
    """Times of many calls, each between two events."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 10 or (sum(times) < 1000 * budget_s and len(times) < 200):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def ceilings() -> tuple[float, float]:
    """(TFLOP/s of a bfloat16 product, GB/s of a copy), measured."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    flops = 2 * 8192**3 / (median(milliseconds(lambda: a @ a)) * 1e9)
    x = torch.empty(2**30, device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    return flops, 2 * 2**30 / (median(milliseconds(lambda: y.copy_(x))) * 1e6)


def arms_of(name: str, fused: Call, others: dict[str, Call], **more: Any) -> list[Row]:
    """The kernel's time, and its ratio to each other arm."""
    if not IS_GPU:
        fused()
        return [missing(f"{name}_ms", "no GPU here; ran on the interpreter")]
    ours = milliseconds(fused)
    rows = [repeats(f"{name}_ms", ours, "ms", "the kernel")]
    for arm, call in others.items():
        try:
            theirs = median(milliseconds(call))
        except Exception as error:  # an arm that does not run is a row, too
            rows.append(missing(f"{name}_ratio_vs_{arm}", f"{type(error).__name__}: {error}"[:120]))
            continue
        torch.cuda.empty_cache()
        ratio = [theirs / t for t in ours]
        extra = more if arm == "torch" else {}
        rows.append(
            repeats(f"{name}_ratio_vs_{arm}", ratio, "x", f"{arm}: {theirs:.3f} ms", **extra)
        )
    return rows
