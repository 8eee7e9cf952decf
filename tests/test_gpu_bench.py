"""The benchmark for a GPU runs from a bare copy, where little more than torch is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.round

ROOT = Path(__file__).parent.parent
ABSENT = ("ray", "sqlalchemy", "alembic", "pydantic", "typer", "vllm", "trl", "peft", "psutil")
BLOCKER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["decoding", "kernels", "training"])
def test_a_part_runs_where_only_torch_and_transformers_are(part: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "scripts.bench.gpu", "--part", part, "--out", str(out)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["name"]: row for row in map(json.loads, out.read_text().splitlines())}
    if part == "training":
        assert rows["training"]["why"] == "pydantic is not installed here"
    elif part == "kernels":
        assert "ran on the interpreter" in rows["decode_attention_3_x_20_ms"]["why"]
    else:
        assert rows["decode_tiny_2"]["value"] > 0 and rows["options_tiny_2"]["value"] > 0
        generate = rows["decode_tiny_2_generate"]  # what it needs itself may be absent, too
        assert generate["value"] or "Error" in generate["why"]


def test_what_a_part_has_written_is_kept_when_it_ends_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts.bench import gpu

    out = tmp_path / "rows.jsonl"
    out.write_text('{"part": "kernels", "name": "first", "value": 1}\n')
    monkeypatch.setattr(gpu.sys, "executable", "false")  # ends with 1, whatever it is asked
    rows = gpu.apart("kernels", True, out)
    assert [row["name"] for row in rows] == ["first", "kernels_rest"]
    assert rows[1] == {"name": "kernels_rest", "value": None, "why": "ended with 1"}
