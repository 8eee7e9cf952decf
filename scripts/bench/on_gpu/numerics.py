"""Whether the device computes what it should: the tests of the kernels, and the fused step."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.on_gpu.device import IS_GPU

from scripts.bench.report import Row, counted  # isort: skip

ROOT = Path(__file__).resolve().parent.parent.parent.parent
TESTS = ["tests/kernels/test_numerics.py", "tests/kernels/fused_decoding.py"]


def measured(is_quick: bool) -> Iterator[Row]:
    # Without the project's settings and fixtures, for they need more than is there.
    bare = ["-c", "/dev/null", "--noconftest", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    yield _ran("numerics_of_kernels", ["pytest", "-q", *bare, *TESTS])
    yield _ran("numerics_of_steps", ["tests.agent.engine.fused_step"])


def _ran(name: str, module: list[str]) -> Row:
    """1 where it failed."""
    done = subprocess.run([sys.executable, "-m", *module], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-2000:], sep="\n")
    said = " ".join(lines) if len(lines) < 9 else lines[-1]
    return counted(name, int(done.returncode != 0), "failed", 1, f"{said} (GPU: {IS_GPU})")
