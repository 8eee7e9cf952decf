"""Which implementation runs, and what an operation refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kernels import chunked, dispatch, reference
from kernels.dispatch import implementation

torch.manual_seed(0)
H, W, T = torch.randn(4, 6), torch.randn(9, 6), torch.tensor([0, 8, 3, 3])
Z, D, ONE, SEEDS = torch.randn(2, 3, 9), torch.zeros(2, 2).long(), torch.ones(2), torch.arange(2)
lp, heads = dispatch.linear_logprob, dispatch.critic_heads

REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: lp(H[0], W, T), ValueError, "hidden_RE has shape"),
    (lambda: lp(H, W[:, :5], T), ValueError, "weight_VE has shape"),
    (lambda: lp(H, W.double(), T), TypeError, "weight_VE is torch.float64; wanted float32"),
    (lambda: lp(H, W.half(), T), TypeError, "weight_VE is torch.float16; wanted torch.float32"),
    (lambda: lp(H, W.to("meta"), T), ValueError, "weight_VE is on meta; wanted cpu"),
    (lambda: lp(H, W[:0], T), ValueError, "weight_VE has no rows"),
    (lambda: lp(H, W, T[:3]), ValueError, "target_M has shape"),
    (lambda: lp(H, W, T.float()), TypeError, "target_M is torch.float32; wanted int64"),
    (lambda: lp(H, W, T + 1), ValueError, "target_M holds 9; wanted numbers from 0 to 8 or -100"),
    (lambda: lp(H, W, T - 1), ValueError, "target_M holds -1"),
    (lambda: lp(H, W, T, rows_M=T), ValueError, "rows_M holds 8; wanted numbers from 0 to 3"),
    (lambda: lp([1.0], W, T), TypeError, "hidden_RE is a list"),  # type: ignore[arg-type]
    (lambda: heads(H, W[:, :5], T), ValueError, "weight_SE has shape"),
    (lambda: heads(H, W, T), ValueError, "rows_M holds 8"),
    (lambda: dispatch.verify_draft(Z[0], D, ONE, SEEDS, SEEDS), ValueError, "logits_NQV has shape"),
    (lambda: dispatch.verify_draft(Z[:, :2], D, ONE, SEEDS, SEEDS), ValueError, "2 drafts"),
    (lambda: dispatch.verify_draft(Z, D, -ONE, SEEDS, SEEDS), ValueError, "temperature is below 0"),
    (lambda: dispatch.verify_draft(Z, D, ONE, ONE, SEEDS), TypeError, "seeds_N is torch.float32"),
    (lambda: dispatch.verify_draft(Z[..., :0], D, ONE, SEEDS, SEEDS), ValueError, "0 tokens"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_cannot_be_computed_is_refused_by_name(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_no_row_at_all_gives_no_number() -> None:
    none = T[:0]
    assert lp(H[:0], W, none).shape == (0,)
    assert heads(H, W, none).shape == (0, 9)


def test_tensors_that_do_not_lie_in_order_give_the_same_numbers() -> None:
    wide = torch.randn(12, 12)
    hidden, weight = wide[::3, ::2], wide.t()[1:10, ::2]
    found = lp(hidden, weight, T)
    wanted = lp(hidden.contiguous(), weight.contiguous(), T)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_cpu_gets_the_twin_and_a_gpu_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.SWITCH, raising=False)
    assert implementation("verify_draft", "cpu") == "kernels.reference.verify_draft"
    assert implementation("verify_draft", "cuda") == "kernels.verify_draft.coupled"
    monkeypatch.setenv(dispatch.SWITCH, "twin")
    assert implementation("linear_logprob", "cuda") == "kernels.reference.linear_logprob"


def test_a_switch_that_cannot_be_obeyed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv(dispatch.SWITCH, "triton")
    with pytest.raises(RuntimeError, match="the tensors are on cpu; unset it, or set TRITON"):
        lp(H, W, T)
    monkeypatch.setenv(dispatch.SWITCH, "fastest")
    with pytest.raises(RuntimeError, match="wanted auto, triton or twin"):
        lp(H, W, T)


def test_logits_made_a_part_at_a_time_are_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [torch.randn(50, 6), torch.randn(31, 6)]
    rows, target = torch.randint(0, 50, (70,)), torch.randint(0, 31, (70,))
    target[5] = -100
    upstream = torch.randn(70)

    def run() -> list[torch.Tensor]:
        h, w = (x.clone().requires_grad_() for x in given)
        found = lp(h, w, target, rows_M=rows)
        return [found, *torch.autograd.grad((found * upstream).sum(), (h, w))]

    whole = run()
    for module in (chunked, reference):
        monkeypatch.setattr(module, "PART", 100)
    for x, y in zip(run(), whole, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)
