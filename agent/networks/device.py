"""Which device a network computes on, and in which floating-point type."""

import math
from functools import cache
from pathlib import Path

import torch

from search.errors import ResourceError

LARGE = 10_000_000
"""Parameters from which on `auto` takes bfloat16: below, few products are large enough to gain."""
BFLOAT16_FLAGS = {"amx_bf16", "avx512_bf16", "bf16", "svebf16"}
"""Of /proc/cpuinfo: processors that multiply bfloat16 natively (x86, then ARM)."""


def chosen_device(name: str) -> str:
    """`auto` takes cuda where there is one. Raises ResourceError for one that is not there."""
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(
            f"device {name!r} is asked for, but this machine has no CUDA device",
            "leave hosting.device at auto, or set it to cpu",
        )
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def expected_device(name: str) -> str:
    """What `chosen_device` will say where the models run, as far as this process can know: a driver
    may have no GPU though its cluster has."""
    return "cuda" if name.startswith("cuda") else chosen_device(name)


def chosen_dtype(name: str, device: str, num_parameters: int) -> torch.dtype:
    """float32 or bfloat16; `auto` takes bfloat16 on a GPU, and on a CPU for a model of at least
    `LARGE` parameters where the processor multiplies it natively."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    is_fast = device.startswith("cuda") or (num_parameters >= LARGE and multiplies_bfloat16())
    return torch.bfloat16 if is_fast else torch.float32


_part_of_gpu = 1.0


def use_part_of_gpu(part: float) -> None:
    """This process shares its GPU: so much of it is its own."""
    global _part_of_gpu
    _part_of_gpu = part


def local_gpus() -> list[tuple[str, int]]:
    """Name and bytes of this machine's GPUs."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [(gpu.name, gpu.total_memory) for gpu in found]


def gpu_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process may use: its part, and no more than is free or its own."""
    free, total = torch.cuda.mem_get_info(device)
    return int(min(_part_of_gpu * total, free + torch.cuda.memory_reserved(device)))


def free_bytes(device: str) -> float:
    """Memory of a GPU that nothing of this process or another holds; without end on a CPU, where
    the system makes room."""
    if not device.startswith("cuda"):
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    return float(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))


def precision(name: str, device: str, num_parameters: int) -> str:
    """The type that `chosen_dtype` takes, and why, for people."""
    found = str(chosen_dtype(name, device, num_parameters)).removeprefix("torch.")
    if name != "auto":
        return f"{found} (set)"
    if device.startswith("cuda"):
        return f"{found} (on a GPU)"
    if num_parameters < LARGE:
        return f"{found} ({num_parameters:,} parameters, under {LARGE:,})"
    does = "multiplies" if multiplies_bfloat16() else "does not multiply"
    return f"{found} ({num_parameters:,} parameters; this processor {does} bfloat16 natively)"


@cache
def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products of bfloat16."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return bool(BFLOAT16_FLAGS & set(flags.split()))
