"""Scratch folders: gone after use, and swept where a process was killed in one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.scratch import scratch_folder, sweep_scratch

LEFT = (
    "import os\nfrom agent.scratch import scratch_folder\n"
    "with scratch_folder('jobs') as folder:\n"
    "    (folder / 'x').write_text('y'); os.kill(os.getpid(), 9)\n"
)


def test_a_scratch_folder_is_its_user_s_alone_and_gone_after_the_block() -> None:
    with scratch_folder("jobs") as folder:
        assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


def test_what_a_killed_process_left_is_swept_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    subprocess.run([sys.executable, "-c", LEFT], env=os.environ | {"TMPDIR": str(tmp_path)})
    (left,) = tmp_path.iterdir()
    link = tmp_path / left.name.replace("jobs", "rows")
    link.symlink_to(tmp_path)  # somebody else's trap
    with scratch_folder("models") as folder:
        assert sorted(tmp_path.iterdir()) == sorted([folder, link])
        assert sweep_scratch(tmp_path) == 0  # it is in use
    assert list(tmp_path.iterdir()) == [link]
