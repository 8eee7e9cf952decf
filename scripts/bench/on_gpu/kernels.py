"""Each kernel against plain torch, torch.compile, and the best library that is installed.

Times are medians of many launches by CUDA events after a warm-up; the ceilings are measured too.
"""

from collections.abc import Callable, Iterator
from typing import Any

from scripts.bench.on_gpu.device import (
    DEVICE,
    DTYPE,
    IS_GPU,
    Call,
    arms_of,
    ceilings,
    in_graph,
    milliseconds,
    twin,
)

import torch  # isort: skip
import torch.nn.functional as F  # isort: skip

from kernels import decoding, dispatch  # isort: skip
from kernels.rows import Rows  # isort: skip
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
    yield from branches()
    yield from texts()


def log_probability(name: str, E: int, V: int, R: int, ceiling: float) -> list[Row]:
    hidden = torch.randn(R, E, device=DEVICE, dtype=DTYPE)
    weight = torch.randn(V, E, device=DEVICE, dtype=DTYPE) * E**-0.5
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

    def plain(h: torch.Tensor, w: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(h, w).float(), t, reduction="none")

    compiled = torch.compile(plain) if IS_GPU else plain
    rows = arms_of(
        f"linear_logprob_forward_{name}",
        score,
        {"torch": chunked_practice, "compile": lambda: compiled(hidden, weight, target)},
        target=1.4,
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
    ours = {
        "linear_logprob_training": train(lambda: -dispatch.linear_logprob(h, w, target).mean()),
        "summed_logprob_training": train(lambda: -dispatch.summed_logprob(h, w, target) / R),
    }
    for operation, call in ours.items():
        rows += arms_of(f"{operation}_{name}", call, others)
    return rows


def verification(name: str, V: int) -> list[Row]:
    N, K = (64, 4) if IS_GPU else (2, 2)
    logits = torch.randn(N, K + 1, V, device=DEVICE, dtype=DTYPE)
    draft = (logits[:, :K] + torch.randn(N, K, V, device=DEVICE, dtype=DTYPE)).argmax(-1)
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
    hidden = torch.randn(R, E, device=DEVICE, dtype=DTYPE)
    weight = torch.randn(3, E, device=DEVICE, dtype=DTYPE)
    rows = torch.randint(0, R, (M,), device=DEVICE)

    def every_row() -> Any:
        """Three heads over all rows, then the wanted ones."""
        return [(hidden @ w).float()[rows] for w in weight]

    def call() -> Any:
        return dispatch.critic_heads(hidden, weight, rows)

    others = {"torch": every_row, "gathered": twin(call)}
    return arms_of(f"critic_heads_{name}", call, others, target=3)


H, G, D = (32, 8, 128) if IS_GPU else (4, 2, 16)


def branches() -> Iterator[Row]:
    """Attention of a tree: so many branches over a shared beginning, one token each, in one job."""
    for C in (512, 2048, 8192) if IS_GPU else (20,):
        for R in (16, 64, 256) if IS_GPU else (3,):
            column = C + torch.arange(R, device=DEVICE)
            seen = torch.zeros(R, C + R, dtype=torch.uint8, device=DEVICE)
            seen[:, :C] = 1
            seen[torch.arange(R, device=DEVICE), column] = 1
            rows = Rows(column * 0, column, column, column * 0 + C + R, seen)
            bias = torch.zeros(1, 1, R * (H // G), C + R, dtype=DTYPE, device=DEVICE)
            bias.masked_fill_((seen == 0).repeat_interleave(H // G, dim=0), float("-inf"))
            yield from attention(f"attention_{C}_x_{R}", rows, bias)


def texts() -> Iterator[Row]:
    """Attention of decoding: one token of each of some texts, all of the same length."""
    for C in (256, 2048) if IS_GPU else (20,):
        for N in (1, 16, 64, 256) if IS_GPU else (3,):
            end = torch.full((N,), C, device=DEVICE)
            rows = Rows(torch.arange(N, device=DEVICE), end - 1, end - 1, end)
            bias = torch.zeros(N, 1, H // G, C, dtype=DTYPE, device=DEVICE)
            yield from attention(f"decode_attention_{N}_x_{C}", rows, bias)


def attention(name: str, rows: Rows, bias_N1QC: torch.Tensor) -> list[Row]:
    """The kernel of decoding, and torch's own with what rows see as its bias; each in a graph, as
    the engine runs it: single launches would measure the launch."""
    num_jobs, num_columns = bias_N1QC.shape[0], bias_N1QC.shape[3]
    qkv = torch.randn(len(rows.job), H + 2 * G, D, device=DEVICE, dtype=DTYPE)
    kept = torch.randn(num_jobs, num_columns, 2 * G, D, device=DEVICE, dtype=DTYPE)
    q = qkv[:, :H].view(num_jobs, -1, G, H // G, D).transpose(1, 2).reshape(num_jobs, G, -1, D)
    keys, values = kept[:, :, :G].transpose(1, 2), kept[:, :, G:].transpose(1, 2)

    def torchs() -> object:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias_N1QC)

    def ours() -> object:
        return decoding.attention(qkv, rows, kept, H)

    return arms_of(name, in_graph(ours), {"torch": in_graph(torchs)})
