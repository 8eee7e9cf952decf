"""The fused kernels on a GPU: first whether they are right, then how fast, against the ceilings.

    python -m scripts.bench.gpu --json gpu.json    # under ten minutes on one GPU
    python -m scripts.bench.gpu --quick            # one shape

Baselines in the same run: plain torch (the twin), the twin through torch.compile, torch's own
F.linear_cross_entropy and, where it is installed, Liger. Times are medians of many launches by CUDA
events after a warm-up; the ceilings are measured too: a large bfloat16 product and a large copy.

Without a GPU nothing is timed: the kernels run on Triton's interpreter on tiny shapes, as a test of
this script, and every row says that it was not measured.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


def has_gpu() -> bool:
    """Asked before torch and Triton are there: the latter reads its switch as it is imported."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool], capture_output=True).returncode == 0


IS_GPU = has_gpu()
if not IS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["RATCHET_KERNELS"] = "triton"

import torch  # noqa: E402

from kernels import dispatch  # noqa: E402
from scripts.bench.report import Row, missing, repeats, show, write  # noqa: E402

DEVICE = "cuda" if IS_GPU else "cpu"
SHAPES = {"llama_8b": (4096, 128_256), "qwen_7b": (3584, 152_064), "head_70b": (8192, 128_256)}
TINY = {"tiny": (32, 130)}
TARGETS = {"linear_logprob_tflops": 450, "verify_draft": 8, "critic_heads": 3}
Call = Callable[[], Any]


def twin(call: Call) -> Call:
    """The same call through the plain-torch twins."""

    def run() -> Any:
        before = os.environ.get(dispatch.SWITCH)
        os.environ[dispatch.SWITCH] = "twin"
        try:
            return call()
        finally:
            if before is None:
                del os.environ[dispatch.SWITCH]
            else:
                os.environ[dispatch.SWITCH] = before

    return run


def milliseconds(call: Call, budget_s: float = 2.0) -> list[float]:
    """Times of many calls, each between two events."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    times: list[float] = []
    while len(times) < 10 or (sum(times) < 1000 * budget_s and len(times) < 200):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def ceilings() -> tuple[float, float]:
    """(TFLOP/s of a bfloat16 product, GB/s of a copy), measured."""
    a = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    flops = 2 * 8192**3 / (median(milliseconds(lambda: a @ a)) * 1e9)
    x = torch.empty(2**30, device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    return flops, 2 * 2**30 / (median(milliseconds(lambda: y.copy_(x))) * 1e6)


def arms_of(name: str, fused: Call, others: dict[str, Call], **more: Any) -> list[Row]:
    """The kernel's time, and its ratio to each other arm."""
    if not IS_GPU:
        fused()
        return [missing(f"{name}_ms", "no GPU here; ran on the interpreter")]
    ours = milliseconds(fused)
    rows = [repeats(f"{name}_ms", ours, "ms", "the kernel")]
    for arm, call in others.items():
        try:
            theirs = median(milliseconds(call))
        except Exception as error:  # an arm that does not run is a row, too
            rows.append(missing(f"{name}_ratio_vs_{arm}", f"{type(error).__name__}: {error}"[:120]))
            continue
        torch.cuda.empty_cache()
        ratio = [theirs / t for t in ours]
        extra = more if arm == "torch" else {}
        rows.append(
            repeats(f"{name}_ratio_vs_{arm}", ratio, "x", f"{arm}: {theirs:.3f} ms", **extra)
        )
    return rows


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
                target=TARGETS["linear_logprob_tflops"],
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

    others = {"torch": twin(call)}
    return arms_of(f"verify_draft_{name}", call, others, target=TARGETS["verify_draft"])


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
    return arms_of(f"critic_heads_{name}", call, others, target=TARGETS["critic_heads"])


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


def right() -> bool:
    """The numerics of the tests, on this device."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/kernels/test_numerics.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    print(done.stdout.strip().splitlines()[-1] if done.stdout else done.stderr)
    if done.returncode:
        print(done.stdout[-3000:])
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one shape")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    print(torch.cuda.get_device_name() if IS_GPU else "no GPU: interpreter, tiny shapes, no times")
    is_right = right()
    flops, bandwidth = ceilings() if IS_GPU else (0.0, 0.0)
    shapes = SHAPES if IS_GPU else TINY
    if arguments.quick:
        shapes = dict(list(shapes.items())[:1])
    rows: list[Row] = []
    if IS_GPU:
        rows.append(repeats("ceiling_tflops", [flops], "TFLOP/s", "bfloat16 product, 8192"))
        rows.append(repeats("ceiling_gb_per_s", [bandwidth], "GB/s", "copy of a GiB"))
    for name, (E, V) in shapes.items():
        rows += log_probability(name, E, V, 8192 if IS_GPU else 5, flops)
        rows += verification(name, V)
        rows += heads(name, E)
    rows += attention()
    for row in rows:
        show(row)
    write(arguments.json, "gpu", {"shapes": shapes, "is_right": is_right}, [], rows)
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
