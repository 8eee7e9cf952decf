"""Kernels fit a GPU that is not there: no spills, no more shared memory than there is."""

import pytest

pytest.importorskip("triton")

from kernels import aot

pytestmark = pytest.mark.round

KERNELS = {v.kernel.__name__: v for v in aot.variants()}


def test_every_kernel_is_compiled_somewhere() -> None:
    assert len(KERNELS) == 9
    assert len({v.name for v in aot.variants()}) == len(list(aot.variants()))


@pytest.mark.parametrize("name", sorted(KERNELS))
def test_a_kernel_neither_spills_nor_asks_for_too_much(name: str) -> None:
    """One size of each on the newest architecture; `scripts.bench.kernels --aot` has all."""
    taken = aot.compiled(KERNELS[name], 90)
    assert taken.faults == []
    assert taken.registers > 0


def test_tensor_cores_multiply_where_numbers_have_sixteen_bits() -> None:
    half = [v for v in aot.variants() if v.is_tensor_core]
    assert {v.kernel.__name__ for v in half} == {"attention_kernel"}
    taken = aot.compiled(half[0], 90)
    assert taken.tensor_core > 0
