"""A row's bits do not depend on how few rows it is multiplied with, on any CPU."""

import pytest
import torch

from agent.networks.llama_inference import MIN_ROWS, _product
from kernels import dispatch
from kernels.chunked import _parts


@pytest.mark.parametrize("width", [16, 48, 100, 256])
@pytest.mark.parametrize("out", [16, 64, 130, 512])
def test_a_product_of_few_rows_has_the_bits_of_one_of_many(width: int, out: int) -> None:
    generator = torch.Generator().manual_seed(width + out)
    x = torch.randn(64, width, generator=generator)
    matrix = torch.randn(width, out, generator=generator)
    bias, onto = torch.randn(out, generator=generator), torch.randn(64, out, generator=generator)
    whole = [_product(x, matrix, *rest) for rest in ((None, None), (bias, None), (bias, onto))]
    for num in range(1, 2 * MIN_ROWS):
        part = [
            _product(x[:num], matrix, None, None),
            _product(x[:num], matrix, bias, None),
            _product(x[:num], matrix, bias, onto[:num]),
        ]
        for few, many in zip(part, whole, strict=True):
            assert torch.equal(few, many[:num]), num


@pytest.mark.parametrize("num", [1, 3, 4, 5, 1023, 1025, 2049, 2050])
def test_no_part_of_a_long_list_of_rows_is_a_short_one(num: int) -> None:
    parts = _parts(num, 4096)
    assert [p.start for p in parts] == [0, *(p.stop for p in parts[:-1])]
    assert parts[-1].stop == num
    assert all(p.stop - p.start >= min(num, MIN_ROWS) for p in parts)


def test_a_rows_log_probability_does_not_depend_on_how_many_are_asked_for() -> None:
    generator = torch.Generator().manual_seed(3)
    hidden, head = (
        torch.randn(40, 32, generator=generator),
        torch.randn(64, 32, generator=generator),
    )
    target = torch.arange(40)
    whole = dispatch.linear_logprob(hidden, head, target)
    for num in (4, 5, 7, 39):
        assert torch.equal(dispatch.linear_logprob(hidden[:num], head, target[:num]), whole[:num])
