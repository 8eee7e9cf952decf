"""A row's bits do not depend on how few rows it is multiplied with, on any CPU."""

import pytest
import torch

from agent.networks.batching import MIN_ROWS, product
from kernels import chunked, dispatch, reference


@pytest.mark.parametrize("width", [16, 48, 100, 256])
@pytest.mark.parametrize("out", [16, 64, 130, 512])
def test_a_product_of_few_rows_has_the_bits_of_one_of_many(width: int, out: int) -> None:
    generator = torch.Generator().manual_seed(width + out)
    x = torch.randn(64, width, generator=generator)
    matrix = torch.randn(width, out, generator=generator)
    bias, onto = torch.randn(out, generator=generator), torch.randn(64, out, generator=generator)
    whole = [product(x, matrix, *rest) for rest in ((None, None), (bias, None), (bias, onto))]
    for num in range(1, 2 * MIN_ROWS):
        part = [
            product(x[:num], matrix, None, None),
            product(x[:num], matrix, bias, None),
            product(x[:num], matrix, bias, onto[:num]),
        ]
        for few, many in zip(part, whole, strict=True):
            assert torch.equal(few, many[:num]), num


@pytest.mark.parametrize("part", [1 << 22, 3 * 64, 64])
def test_a_rows_log_probability_does_not_depend_on_how_many_are_asked_for(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or a few rows at a time, each row once or several targets of it."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(40, 32, generator=generator)
    head = torch.randn(64, 32, generator=generator)
    target, rows = torch.arange(40), torch.arange(40)
    with torch.no_grad():
        whole = dispatch.linear_logprob(hidden, head, target, rows_M=rows)
        for module in (chunked, reference):
            monkeypatch.setattr(module, "PART", part)
        for num in (1, 2, 3, 4, 5, 7, 39):
            few = dispatch.linear_logprob(hidden[:num], head, target[:num], rows_M=rows[:num])
            picked = dispatch.linear_logprob(hidden, head, target[:num], rows_M=rows[:num])
            again = torch.cat((rows[:num], rows[:num]))
            twice = dispatch.linear_logprob(
                hidden[:num], head, torch.cat((target[:num], target[:num])), rows_M=again
            )
            for found in (few, picked, twice[:num], twice[num:]):
                assert torch.equal(found, whole[:num]), num
