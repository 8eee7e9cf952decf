"""The short form of scripts/fuzz: a few hostile inputs at every door, other ones each night."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.round
def test_no_hostile_input_at_any_door_brings_what_nobody_foresaw(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "scripts.fuzz", "--inputs", "220", "--seconds", "200"),
            *("--json", str(out)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=230,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"found": {}' in out.read_text()
