"""Out of memory: smaller batches twice, then each request alone."""

from collections.abc import Sequence

import pytest

from agent.engine.memory import in_smaller_batches


class Machine:
    """Answers as long as no more jobs are asked for than it holds, and one request never fits."""

    def __init__(self, room: int, error: Exception, giant: int = -1) -> None:
        self.room, self.error, self.giant = room, error, giant
        self.tried: list[int] = []

    def __call__(self, requests: Sequence[int], max_jobs: int) -> list[int]:
        self.tried.append(max_jobs)
        if max_jobs > self.room or self.giant in requests:
            raise self.error
        return [10 * r for r in requests]


ERRORS = [
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_the_batch_is_halved_until_it_fits(error: Exception) -> None:
    machine = Machine(2, error)
    assert in_smaller_batches(machine, [1, 2, 3], 8, lambda r, why: -1) == [10, 20, 30]
    assert machine.tried == [8, 4, 2]


@pytest.mark.parametrize("error", ERRORS)
def test_a_request_that_never_fits_fails_alone(error: Exception) -> None:
    machine = Machine(9, error, giant=2)
    failures: list[str] = []

    def failed(request: int, why: str) -> int:
        failures.append(why)
        return -request

    assert in_smaller_batches(machine, [1, 2, 3], 8, failed) == [10, -2, 30]
    assert len(failures) == 1 and failures[0].startswith("out of memory")


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        in_smaller_batches(Machine(1, RuntimeError("shape mismatch")), [1], 8, lambda r, why: 0)
