"""What the twins cost on a CPU, and what the kernels would take of a GPU that is not there.

    python -m scripts.bench.kernels                 # twins against plain torch
    python -m scripts.bench.kernels --aot           # every kernel for sm_80 and sm_90
    python -m scripts.bench.kernels --quick --json kernels.json

Each arm runs in a process of its own, in turn, `--repeats` times; a ratio is of the medians. Peak
memory is the process's own high-water mark over what it held before. The full run takes about four
minutes, `--aot` three, `--quick` half of one. `--aot` ends with status 1 where a kernel spills,
asks for too much shared memory, or has no tensor-core instruction where it should.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from kernels import dispatch
from kernels.noise import gumbel
from scripts.bench.report import Row, repeats, show, write

ROOT = Path(__file__).resolve().parent.parent.parent

LOSSES = ("twin", "naive", "torch")
SUMS = (*LOSSES, "sum")
"""Arms of training: SFT wants the sum alone."""
VERIFIERS = ("twin", "loop")


def loss_of(arm: str, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> Any:
    """Mean negative log-likelihood by one of the arms."""
    F = torch.nn.functional
    if arm == "twin":
        return -dispatch.linear_logprob(hidden, weight, target).mean()
    if arm == "sum":
        return -dispatch.summed_logprob(hidden, weight, target) / len(target)
    if arm == "naive":
        logprob = torch.log_softmax(F.linear(hidden, weight).float(), -1)
        return -logprob.gather(1, target[:, None]).mean()
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, target, options=options)


def verified_by_loop(
    logits: torch.Tensor,
    draft: torch.Tensor,
    temperature: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> list[list[int]]:
    """The engine's rule one text and one place at a time."""
    out = []
    for n in range(len(logits)):
        text: list[int] = []
        for q in range(logits.shape[1]):
            distribution = torch.log_softmax(logits[n, q] / temperature[n], 0)
            noise = gumbel(seeds[n : n + 1], positions[n : n + 1] + q, len(distribution))[0]
            token = int((distribution + noise).argmax())
            text.append(token)
            if q < draft.shape[1] and int(draft[n, q]) != token:
                break
        out.append(text)
    return out


def child(arm: str, kind: str, sizes: list[int], is_training: bool) -> None:
    """Median seconds of a call after the first, and bytes at its highest, as JSON."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "loss":
        R, E, V = sizes
        hidden = torch.randn(R, E, requires_grad=is_training)
        weight = (torch.randn(V, E) * E**-0.5).requires_grad_(is_training)
        target = torch.randint(0, V, (R,))

        def run() -> None:
            loss = loss_of(arm, hidden, weight, target)
            if is_training:
                loss.backward()
                hidden.grad = weight.grad = None
    else:
        N, K, V = sizes
        logits, draft = torch.randn(N, K + 1, V), torch.zeros(N, K, dtype=torch.long)
        given = (draft, torch.full((N,), 0.8), torch.arange(N), torch.zeros(N, dtype=torch.long))
        # All drafts are the target's choices: the loop, which ends at a wrong one, sees all places.
        given = (dispatch.verify_draft(logits, *given).tokens[:, :K], *given[1:])

        def run() -> None:
            if arm == "twin":
                dispatch.verify_draft(logits, *given)
            else:
                verified_by_loop(logits, *given)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 0.5 and len(seconds) < 200):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": median(seconds), "bytes": peak * 1024}))


def measured(arm: str, kind: str, sizes: list[int], is_training: bool) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "scripts.bench.kernels",
        "--child",
        arm,
        kind,
        json.dumps(sizes),
    ]
    command += ["--training"] if is_training else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(
    name: str, kind: str, arms: tuple[str, ...], sizes: list[int], num: int, is_training: bool
) -> list[Row]:
    """Medians of the twin, and its ratios to the other arms, in turn."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for _ in range(num):
        for arm in arms:
            found[arm].append(measured(arm, kind, sizes, is_training))
    rows = [repeats(f"{name}_ms", [1000 * f["seconds"] for f in found["twin"]], "ms", "the twin")]
    for arm in arms[1:]:
        pairs = list(zip(found[arm], found["twin"], strict=True))
        speed = [a["seconds"] / b["seconds"] for a, b in pairs]
        rows.append(repeats(f"{name}_speedup_vs_{arm}", speed, "x", f"{arm}, same turn"))
        if kind == "loss":
            less = [a["bytes"] / max(1, b["bytes"]) for a, b in pairs]
            peak = median(f["bytes"] for f in found[arm]) / 2**20
            rows.append(
                repeats(
                    f"{name}_peak_memory_ratio_vs_{arm}",
                    less,
                    "x less",
                    f"{arm}: {peak:.0f} MiB over what it held",
                )
            )
    if kind == "loss":
        own = [f["bytes"] / 2**20 for f in found["twin"]]
        rows.append(repeats(f"{name}_peak_memory", own, "MiB", "over what it held"))
    return rows


def ahead_of_time() -> tuple[list[Row], bool]:
    """A row a kernel, size and architecture; whether any has a fault."""
    from kernels import aot

    rows, is_bad = [], False
    print(f"{'kernel':<48}  sm registers  stack   shared tensor core")
    for variant in aot.variants():
        for architecture in aot.ARCHITECTURES:
            taken = aot.compiled(variant, architecture)
            faults = "; ".join(taken.faults)
            is_bad = is_bad or bool(faults)
            print(
                f"{taken.name:<48} {architecture:>3} {taken.registers:>9} {taken.stack:>6} "
                f"{taken.shared:>8} {taken.tensor_core:>11}  {faults}",
                flush=True,
            )
            rows.append(
                {
                    "name": f"{taken.name} sm_{architecture}",
                    "value": taken.registers,
                    "unit": "registers",
                    "stack": taken.stack,
                    "shared_bytes": taken.shared,
                    "tensor_core_instructions": taken.tensor_core,
                    "faults": taken.faults,
                    "baseline": f"{aot.SHARED_LIMIT[architecture]} bytes of shared memory at most",
                }
            )
    return rows, is_bad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--aot", action="store_true", help="compile every kernel, run none")
    parser.add_argument("--only", choices=["linear_logprob", "verify_draft"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--training", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        arm, kind, sizes = arguments.child
        child(arm, kind, json.loads(sizes), arguments.training)
        return
    if arguments.aot:
        rows, is_bad = ahead_of_time()
        write(arguments.json, "kernels-aot", {}, [], rows)
        sys.exit(1 if is_bad else 0)
    num = 2 if arguments.quick else arguments.repeats
    shapes = {"1024x512x32000": [1024, 512, 32_000], "2048x96x384": [2048, 96, 384]}
    if arguments.quick:
        shapes = {"256x128x8000": [256, 128, 8000]}
    if arguments.only == "verify_draft":
        shapes = {}
    rows = []
    for name, sizes in shapes.items():
        for is_training in (False, True):
            label = f"linear_logprob_{'training' if is_training else 'scoring'}_{name}"
            arms = SUMS if is_training else LOSSES
            rows += compared(label, "loss", arms, sizes, num, is_training)
    drafts = ([16, 4, 64], [16, 4, 32_000])[: 1 if arguments.quick else 2]
    for sizes in () if arguments.only == "linear_logprob" else drafts:
        label = "verify_draft_" + "x".join(map(str, sizes))
        rows += compared(label, "verify", VERIFIERS, sizes, num, False)
    for row in rows:
        show(row)
    write(arguments.json, "kernels", {"shapes": shapes, "repeats": num}, [0], rows)


if __name__ == "__main__":
    main()
