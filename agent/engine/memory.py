"""Going on when memory runs out: smaller batches, then one request at a time."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Request = TypeVar("Request")
Answer = TypeVar("Answer")
NUM_SMALLER = 2
"""Times that the batch is halved before requests go alone."""


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
