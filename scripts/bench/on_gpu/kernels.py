"""Each kernel against plain torch, torch.compile, and the best library that is installed.

Times are medians of many launches by CUDA events after a warm-up; the ceilings are measured too.
"""

from collections.abc import Callable, Iterator
from typing import Any

from scripts.bench.on_gpu.device import (
    DEVICE,
    IS_GPU,
    Call,
    arms_of,
    ceilings,
    milliseconds,
    twin,
)

import torch  # isort: skip

from kernels import dispatch  # isort: skip
from scripts.bench.report import Row, missing, repeats  # isort: skip

SHAPES = {"llama_8b": (4096, 128_256), "qwen_7b": (3584, 152_064), "head_70b": (8192, 128_256)}
TINY = {"tiny": (32, 130)}


def measured(is_quick: bool) -> Iterator[Row]:
    flops, bandwidth = ceilings() if IS_GPU else (0.0, 0.0)
    if IS_GPU:
        yield repeats("ceiling_tflops", [flops], "TFLOP/s", "bfloat16 product, 8192")
        yield repeats("ceiling_gb_per_s", [bandwidth], "GB/s", "copy of a GiB")
    shapes = SHAPES if IS_GPU else TINY
    if is_quick:
        shapes = dict(list(shapes.items())[:1])
    for name, (E, V) in shapes.items():
        yield from log_probability(name, E, V, 8192 if IS_GPU else 5, flops)
        yield from verification(name, V)
        yield from heads(name, E)
    yield from attention()
    yield from branches()
    yield from shares()


def log_probability(name: str, E: int, V: int, R: int, ceiling: float) -> list[Row]:
    dtype = torch.bfloat16 if IS_GPU else torch.float32
    hidden = torch.randn(R, E, device=DEVICE, dtype=dtype)
    weight = torch.randn(V, E, device=DEVICE, dtype=dtype) * E**-0.5
    target = torch.randint(0, V, (R,), device=DEVICE)

    def score() -> Any:
        with torch.no_grad():
            return dispatch.linear_logprob(hidden, weight, target)

    def chunked_practice() -> None:
        """Float32 logits a thousand rows at a time, as trainers do."""
        with torch.no_grad():
            for start in range(0, R, 1024):
                z = (hidden[start : start + 1024] @ weight.t()).float()
                torch.log_softmax(z, -1).gather(1, target[start : start + 1024, None])

    F = torch.nn.functional

    def plain(h: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(h, w).float(), t, reduction="none")

    compiled = torch.compile(plain) if IS_GPU else plain
    rows = arms_of(
        f"linear_logprob_forward_{name}",
        score,
        {"torch": chunked_practice, "compile": lambda: compiled(hidden, weight, target)},
        target=3,
    )
    if IS_GPU:
        reached = [2 * R * E * V / (t * 1e9) for t in milliseconds(score)]
        rows.append(
            repeats(
                f"linear_logprob_tflops_{name}",
                reached,
                "TFLOP/s",
                f"ceiling {ceiling:.0f} measured",
                target=450,
            )
        )
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()

    def train(loss_of: Callable[[], torch.Tensor]) -> Call:
        def run() -> None:
            h.grad = w.grad = None
            loss_of().backward()

        return run

    others = {
        "torch": train(lambda: plain(h, w, target).mean()),
        "compile": train(lambda: compiled(h, w, target).mean()),
        "torch_linear_cross_entropy": train(
            lambda: F.linear_cross_entropy(
                h, w, target, options=torch.nn.LinearCrossEntropyOptions()
            )
        ),
    }
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        liger = LigerFusedLinearCrossEntropyLoss()
        others["best_library"] = train(lambda: liger(w, h, target))
    except ImportError:
        rows.append(
            missing(
                f"linear_logprob_training_{name}_ratio_vs_best_library",
                "liger-kernel is not installed",
            )
        )
    rows += arms_of(
        f"linear_logprob_training_{name}",
        train(lambda: -dispatch.linear_logprob(h, w, target).mean()),
        others,
    )
    return rows


def verification(name: str, V: int) -> list[Row]:
    N, K = (64, 4) if IS_GPU else (2, 2)
    dtype = torch.bfloat16 if IS_GPU else torch.float32
    logits = torch.randn(N, K + 1, V, device=DEVICE, dtype=dtype)
    draft = (logits[:, :K] + torch.randn(N, K, V, device=DEVICE, dtype=dtype)).argmax(-1)
    seeds = torch.arange(N, device=DEVICE)
    temperature = torch.full((N,), 0.8, device=DEVICE)

    def call() -> Any:
        return dispatch.verify_draft(logits, draft, temperature, seeds, seeds * 3)

    def plain(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The same work with torch's own random numbers, which no seed of a text fixes."""
        raw = torch.log_softmax(z.float(), dim=-1)
        scaled = torch.log_softmax(raw / 0.8, dim=-1)
        noise = -torch.log(-torch.log(torch.rand_like(scaled).clamp(min=1e-20)))
        choice = (scaled + noise).argmax(dim=-1)
        picked = choice[..., None]
        agrees = (choice[:, :K] == draft).long().cumprod(dim=1).sum(dim=1)
        return choice, agrees, raw.gather(2, picked), scaled.gather(2, picked)

    compiled = torch.compile(plain) if IS_GPU else plain
    others = {"torch": twin(call), "compile": lambda: compiled(logits)}
    return arms_of(f"verify_draft_{name}", call, others, target=1)


def heads(name: str, E: int) -> list[Row]:
    R, M = (65_536, 2048) if IS_GPU else (20, 5)
    dtype = torch.bfloat16 if IS_GPU else torch.float32
    hidden = torch.randn(R, E, device=DEVICE, dtype=dtype)
    weight = torch.randn(3, E, device=DEVICE, dtype=dtype)
    rows = torch.randint(0, R, (M,), device=DEVICE)

    def every_row() -> Any:
        """Three heads over all rows, then the wanted ones."""
        return [(hidden @ w).float()[rows] for w in weight]

    def call() -> Any:
        return dispatch.critic_heads(hidden, weight, rows)

    others = {"torch": every_row, "gathered": twin(call)}
    return arms_of(f"critic_heads_{name}", call, others, target=3)


def shares() -> Iterator[Row]:
    """linear_logprob's forward and training by the size of a share of the vocabulary."""
    if not IS_GPU:
        return
    from kernels import linear_logprob

    E, V = SHAPES["llama_8b"]
    hidden, weight = (
        torch.randn(num, E, device=DEVICE, dtype=torch.bfloat16).mul_(0.05).requires_grad_()
        for num in (8192, V)
    )
    target = torch.randint(0, V, (8192,), device=DEVICE)

    def score() -> None:
        with torch.no_grad():
            dispatch.linear_logprob(hidden, weight, target)

    def train() -> None:
        hidden.grad = weight.grad = None
        dispatch.linear_logprob(hidden, weight, target).mean().backward()

    for name, call in (("FORWARD_SHARE", score), ("BACKWARD_SHARE", train)):
        before = getattr(linear_logprob, name)
        for power in (23, 24, 25, 26, 27, 28):
            setattr(linear_logprob, name, 1 << power)
            found = milliseconds(call, 0.4)
            yield repeats(f"linear_logprob_{name.lower()}_{power}", found, "ms", "llama_8b")
        setattr(linear_logprob, name, before)


def branches() -> Iterator[Row]:
    """Attention of a tree: so many branches over a shared beginning, one token each, in one job."""
    from kernels import decoding, tree_attention
    from kernels.rows import Rows

    H, G, D = (32, 8, 128) if IS_GPU else (4, 2, 16)
    for C in (512, 2048, 8192) if IS_GPU else (20,):
        for R in (16, 64, 256) if IS_GPU else (3,):
            dtype = torch.bfloat16 if IS_GPU else torch.float32
            qkv = torch.randn(R, H + 2 * G, D, device=DEVICE, dtype=dtype)
            kept = torch.randn(1, C + R, 2 * G, D, device=DEVICE, dtype=dtype)
            column = C + torch.arange(R, device=DEVICE)
            seen = torch.zeros(R, C + R, dtype=torch.uint8, device=DEVICE)
            seen[:, :C] = 1
            seen[torch.arange(R, device=DEVICE), column] = 1
            rows = Rows(column * 0, column, column, column * 0 + C + R, seen)
            q = qkv[:, :H].view(R, G, H // G, D).permute(1, 0, 2, 3).reshape(1, G, -1, D)
            bias = torch.zeros(1, 1, R * (H // G), C + R, dtype=dtype, device=DEVICE)
            hidden = (seen == 0).repeat_interleave(H // G, dim=0)
            bias.masked_fill_(hidden, float("-inf"))
            keys, values = kept[:, :, :G].transpose(1, 2), kept[:, :, G:].transpose(1, 2)

            def ours() -> object:
                return decoding.attention(qkv, rows, kept, H)  # noqa: B023

            def tree() -> object:
                return tree_attention.attend(q, keys, values, bias, not IS_GPU)  # noqa: B023

            def torchs() -> object:
                return torch.nn.functional.scaled_dot_product_attention(
                    q,  # noqa: B023
                    keys,  # noqa: B023
                    values,  # noqa: B023
                    attn_mask=bias,  # noqa: B023
                )

            others: dict[str, Call] = {"tree_kernel": tree, "torch": torchs}
            yield from arms_of(f"attention_{C}_x_{R}", ours, others)


def attention() -> list[Row]:
    H, G, D = (32, 8, 128) if IS_GPU else (4, 2, 16)
    Q, C = (512, 512) if IS_GPU else (20, 20)
    dtype = torch.bfloat16 if IS_GPU else torch.float32
    q, k = (torch.randn(1, G, num, D, device=DEVICE, dtype=dtype) for num in (Q * (H // G), C))
    bias = torch.zeros(1, 1, Q * (H // G), C, device=DEVICE, dtype=dtype)
    bias.masked_fill_(torch.rand_like(bias) < 0.7, float("-inf"))
    bias[..., 0] = 0

    def packed() -> Any:
        return dispatch.tree_attention(q, k, k, bias)

    return arms_of(f"tree_attention_packed_{Q}", packed, {"torch": twin(packed)})
