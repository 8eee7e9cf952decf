"""Memory: giving back what is free, and going on when it runs out: with smaller batches, then one
request at a time."""

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Request = TypeVar("Request")
Answer = TypeVar("Answer")
NUM_SMALLER = 2
"""Times that the batch is halved before requests go alone."""


def return_freed() -> None:
    """Give the system what was freed. The C library keeps blocks of up to 32 MB for later, which
    after a large model was read are hundreds of megabytes. Does nothing where it is another one.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not allocate; on a CPU torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def in_smaller_batches(
    run: Callable[[Sequence[Request], int], list[Answer]],
    requests: Sequence[Request],
    max_jobs: int,
    failed: Callable[[Request, str], Answer],
) -> list[Answer]:
    """`run(requests, max_jobs)`; out of memory, with half the jobs, twice; then each request alone.

    A request that fails alone is answered by `failed(request, why)`, the others as ever.
    """
    if not requests:
        return []
    for _ in range(NUM_SMALLER + 1):
        try:
            return run(requests, max_jobs)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            max_jobs = max(1, max_jobs // 2)
    answers: list[Answer] = []
    for request in requests:
        try:
            answers += run([request], 1)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            why = f"out of memory: {str(error).splitlines()[0] if str(error) else 'no details'}"
            answers.append(failed(request, why))
    return answers
