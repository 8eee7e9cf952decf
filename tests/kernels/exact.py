"""Each operation in float64 and in words, from inputs that are already rounded."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from kernels.noise import gumbel

DEVICE = torch.device(
    "cuda" if torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET") else "cpu"
)
IS_INTERPRETED = bool(os.environ.get("TRITON_INTERPRET"))
Scores = Callable[..., Sequence[Tensor]]


def close(found: Tensor, exact: Tensor, plain: Tensor) -> None:
    """At most twice the error that plain float32 makes.

    Beside that four roundings of the result's type: with few numbers float32 may be right by luck.
    """
    found, exact, plain = found.detach(), exact.detach(), plain.detach()
    error = (found.double() - exact).abs().max()
    allowed = 2 * (plain.double() - exact).abs().max()
    rounding = 4 * torch.finfo(found.dtype).eps * exact.abs().max().clamp(min=1)
    assert torch.isfinite(found).all()
    assert float(error) <= float(allowed + rounding), (float(error), float(allowed))


def logprobs(
    hidden: Tensor, weight: Tensor, target: Tensor, rows: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """log softmax at the targets by its definition; 0 where the target is -100."""
    wanted = hidden if rows is None else hidden[rows]
    z = wanted.to(dtype) @ weight.to(dtype).T
    log_p = z - torch.logsumexp(z, 1, keepdim=True)
    picked = log_p.gather(1, target.clamp(min=0)[:, None])[:, 0]
    return torch.where(target != -100, picked, torch.zeros_like(picked))


def choices(
    logits: Tensor, temperature: Tensor, seeds: Tensor, positions: Tensor
) -> tuple[list[list[int]], Tensor, Tensor]:
    """The coupled rule place by place: tokens, their raw and their processed log-probabilities."""
    N, Q, V = logits.shape
    tokens, raw, distribution = [], torch.zeros(N, Q).double(), torch.zeros(N, Q).double()
    for n in range(N):
        tokens.append([])
        for q in range(Q):
            z, t = logits[n, q].double(), float(temperature[n])
            if t == 0:
                token = int(z.argmax())
            else:
                log_p = torch.log_softmax(z / t, 0)
                noise = gumbel(seeds[n : n + 1], positions[n : n + 1] + q, V)[0].double()
                token = int((log_p + noise).argmax())
                distribution[n, q] = log_p[token]
            raw[n, q] = torch.log_softmax(z, 0)[token]
            tokens[-1].append(token)
    return tokens, raw, distribution


GUARD = 64


@contextmanager
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What torch.empty gives holds NaN (or -7) and lies between guards that nobody may touch."""
    real = torch.empty
    made: list[tuple[Tensor, Tensor]] = []

    def poisoned(*size: object, dtype: torch.dtype | None = None, device: object = None) -> Tensor:
        shape = torch.Size(size[0] if isinstance(size[0], tuple | torch.Size) else size)  # type: ignore[arg-type]
        whole = real(shape.numel() + 2 * GUARD, dtype=dtype, device=device)  # type: ignore[call-overload]
        whole.fill_(float("nan") if whole.is_floating_point() else -7)
        made.append((whole[:GUARD], whole[-GUARD:]))
        found: Tensor = whole[GUARD:-GUARD].view(shape)
        return found

    monkeypatch.setattr(torch, "empty", poisoned)
    monkeypatch.setattr(
        torch, "empty_like", lambda x: poisoned(tuple(x.shape), dtype=x.dtype, device=x.device)
    )
    yield
    monkeypatch.undo()
    for before, after in made:
        for guard in (before, after):
            kept = guard.isnan() if guard.is_floating_point() else guard == -7
            assert bool(kept.all())
