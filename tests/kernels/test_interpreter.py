"""The Triton kernels themselves, on Triton's interpreter, through the tests of their twins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.round

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.timeout(500)
def test_the_kernels_pass_the_numerics_of_their_twins() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "RATCHET_KERNELS": "triton"}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/kernels/test_numerics.py",
            "tests/kernels/fused_decoding.py",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment,
    )
    closing = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", closing)
    assert passed is not None and int(passed[1]) > 40, closing
