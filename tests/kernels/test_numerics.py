"""Every operation against float64: the same body for the twin, Triton's interpreter and a GPU.

Which one runs is the dispatcher's choice: the twin here; `test_interpreter` runs this file again
under the interpreter; with a GPU the kernels run on it. Inputs are drawn with a fresh seed each
time, printed where a test fails.
"""

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels import chunked, dispatch, summed_logprob
from tests.kernels.exact import (
    DEVICE,
    IS_INTERPRETED,
    choices,
    close,
    guarded,
    logprobs,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = [(1, 5, 8), (7, 130, 40), (17, 129, 33), (3, 64, 64)]


@pytest.fixture(autouse=True)
def checked_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with guarded(monkeypatch):
        yield


def beside_nan(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Random numbers in the corner of a larger tensor that holds NaN."""
    whole = torch.full([s + 3 for s in shape], float("nan"), dtype=dtype, device=DEVICE)
    corner = whole[tuple(slice(0, s) for s in shape)]
    corner.copy_(torch.randn(shape) * scale)
    return corner


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_full", [False, True])
def test_linear_logprob_and_its_gradients_are_those_of_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, is_full: bool
) -> None:
    R, V, E = shape
    hidden = beside_nan((R, E), dtype, 0.5)
    weight = beside_nan((V, E), dtype)
    M = R + 2 if is_full else R
    rows = torch.randint(0, R, (M,), device=DEVICE) if is_full else None
    target = torch.randint(0, V, (M,), device=DEVICE)
    target[0] = V - 1
    if is_full:
        target[-1] = -100
    given = [hidden, weight]
    upstream = torch.randn(M, device=DEVICE)

    def run(dtype_of: torch.dtype | None) -> list[Tensor]:
        copies = [
            (x.detach() if dtype_of is None else x.detach().to(dtype_of)).requires_grad_()
            for x in given
        ]
        h, w = copies
        if dtype_of is None:
            logprob = dispatch.linear_logprob(h, w, target, rows_M=rows)
        else:
            logprob = logprobs(h, w, target, rows, dtype_of)
        loss = (logprob * upstream.to(logprob.dtype)).sum()
        return [logprob, *torch.autograd.grad(loss, copies)]

    found, exact, plain = run(None), run(torch.float64), run(torch.float32)
    for i, (x, y, z) in enumerate(zip(found, exact, plain, strict=True)):
        close(x, y, z if i == 0 else z.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_sum_and_its_gradients_are_those_of_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of some rows, as a large vocabulary has them."""
    monkeypatch.setattr(dispatch, "PART", 0)
    monkeypatch.setattr(chunked, "PART", 2 * shape[1])
    monkeypatch.setattr(summed_logprob, "GPU_PART", 2 * shape[1])
    R, V, E = shape
    hidden, weight = beside_nan((R, E), dtype, 0.5), beside_nan((V, E), dtype)
    target = torch.randint(0, V, (R,), device=DEVICE)
    if R > 1:
        target[-1] = -100

    def run(precise: torch.dtype | None) -> list[Tensor]:
        h, w = (x.detach().to(precise or dtype).requires_grad_() for x in (hidden, weight))
        if precise is None:
            total = dispatch.summed_logprob(h, w, target)
        else:
            total = logprobs(h, w, target, None, precise).sum()
        return [total, *torch.autograd.grad(total * -0.75, [h, w])]

    found, exact, plain = run(None), run(torch.float64), run(torch.float32)
    for i, (x, y, z) in enumerate(zip(found, exact, plain, strict=True)):
        close(x, y, z if i == 0 else z.to(dtype))


def test_a_gradient_may_be_one_number_for_all_rows() -> None:
    hidden, weight = torch.randn(4, 6, device=DEVICE), torch.randn(9, 6, device=DEVICE)
    target = torch.tensor([0, 8, 3, 3], device=DEVICE)
    a = hidden.clone().requires_grad_()
    dispatch.linear_logprob(a, weight, target).sum().backward()
    b = hidden.double().requires_grad_()
    logprobs(b, weight, target, None, torch.float64).sum().backward()
    assert a.grad is not None and b.grad is not None
    torch.testing.assert_close(a.grad.double(), b.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_equal_and_huge_logits_lose_nothing(scale: float) -> None:
    """All equal: -log V each. One at +1e4 and the others at -1e4: all weight on it."""
    weight = torch.full((70, 4), -scale / 4, device=DEVICE)
    weight[69] = scale / 4
    hidden = torch.ones(2, 4, device=DEVICE)
    target = torch.tensor([69, 0], device=DEVICE)
    found = dispatch.linear_logprob(hidden, weight, target)
    exact = logprobs(hidden, weight, target, None, torch.float64)
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_critic_heads_and_their_gradients_are_those_of_float64(dtype: torch.dtype) -> None:
    hidden, weight = (
        beside_nan(shape, dtype).detach().requires_grad_() for shape in ((9, 70), (3, 70))
    )
    rows = torch.tensor([0, 8, 8, 2, 5], device=DEVICE)
    found = dispatch.critic_heads(hidden, weight, rows)
    upstream = torch.randn(5, 3, device=DEVICE)
    grads = torch.autograd.grad((found * upstream).sum(), (hidden, weight))
    wanted: dict[torch.dtype, list[Tensor]] = {}
    for precise in (torch.float64, torch.float32):
        h, w = (x.detach().to(precise).requires_grad_() for x in (hidden, weight))
        out = h[rows] @ w.T
        more = torch.autograd.grad((out * upstream.to(precise)).sum(), (h, w))
        wanted[precise] = [out, *(g.to(dtype) if precise == torch.float32 else g for g in more)]
    for x, y, z in zip((found, *grads), wanted[torch.float64], wanted[torch.float32], strict=True):
        close(x, y, z)


def drafts(N: int, Q: int, V: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    seeds = torch.randint(-(2**62), 2**62, (N,), device=DEVICE)
    positions = torch.randint(0, 500, (N,), device=DEVICE)
    temperature = torch.rand(N, device=DEVICE) + 0.4
    return beside_nan((N, Q, V), torch.float32, 2.0), temperature, seeds, positions


@pytest.mark.parametrize(("N", "Q", "V"), [(1, 1, 1), (4, 3, 37), (3, 4, 2100)])
def test_the_engines_rule_writes_the_targets_choices(N: int, Q: int, V: int) -> None:
    logits, temperature, seeds, positions = drafts(N, Q, V)
    temperature[0] = 0.0
    temperature[-1] = 1.0 if N > 1 else 0.0
    tokens, raw, distribution = choices(logits.cpu(), temperature, seeds.cpu(), positions.cpu())
    draft = torch.tensor(tokens, device=DEVICE)[:, : Q - 1].clone()
    wanted = []
    for n in range(N):
        wrong = random.randrange(Q)
        if wrong < Q - 1:
            draft[n, wrong] = -1 if n % 2 else (int(draft[n, wrong]) + 1) % max(2, V)
        wanted.append(wrong)
    found = dispatch.verify_draft(logits, draft, temperature, seeds, positions)
    assert found.tokens.tolist() == tokens
    assert found.num_accepted.tolist() == wanted
    torch.testing.assert_close(found.logprob.double().cpu(), raw, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.processed_logprob.double().cpu(), distribution, atol=2e-5, rtol=1e-5
    )


def test_logits_in_the_tens_of_thousands_are_drawn_from_by_their_differences() -> None:
    near, temperature, seeds, positions = drafts(6, 2, 40)
    none = torch.full((6, 1), -1, device=DEVICE)
    near = (near * 64).round() / 64  # so that adding 2**13 rounds nothing away
    low = dispatch.verify_draft(near, none, temperature, seeds, positions)
    high = dispatch.verify_draft(near + 8192.0, none, temperature, seeds, positions)
    assert torch.equal(low.tokens, high.tokens)
    torch.testing.assert_close(low.logprob, high.logprob, atol=1e-3, rtol=1e-4)


@pytest.mark.skipif(IS_INTERPRETED, reason="200,000 rows take an hour in the interpreter")
def test_what_the_engines_rule_writes_has_the_targets_distribution() -> None:
    """Chi-square at 6 degrees of freedom, p = 1e-4, with drafts of another distribution."""
    num, V, temperature = 200_000, 7, 0.8
    z, d = torch.randn(V, device=DEVICE), torch.randn(V, device=DEVICE)
    seeds = torch.arange(num, device=DEVICE)
    given = (torch.full((num,), temperature, device=DEVICE), seeds, seeds * 0)
    none = torch.full((num, 1), -1, device=DEVICE)
    draft = dispatch.verify_draft(d.expand(num, 2, V), none, *given).tokens[:, :1]
    found = dispatch.verify_draft(z.expand(num, 2, V), draft, *given)
    p, q = (torch.softmax(x / temperature, 0).double().cpu() for x in (z, d))
    for place in range(2):
        counts = torch.bincount(found.tokens[:, place].cpu(), minlength=V).double()
        assert float((((counts - num * p) ** 2) / (num * p)).sum()) < 27.9
    # Coupled draws agree with this chance (Daliri, Musco, Suresh, arXiv 2408.07978).
    agreement = float((1 / torch.maximum(p / p[:, None], q / q[:, None]).sum(dim=1)).sum())
    deviation = (agreement * (1 - agreement) / num) ** 0.5
    assert abs(float(found.num_accepted.float().mean()) - agreement) < 5 * deviation
