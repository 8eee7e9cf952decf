"""The Python door, and the notebook that shows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent import api
from search.errors import NotFoundError, TaskError, UsageError

ROOT = Path(__file__).parent.parent.parent


def test_many_questions_have_the_solutions_that_they_have_alone(tmp_path: Path) -> None:
    with api.open_run(store=f"sqlite:///{tmp_path}/r.db") as run:
        questions = ["3+4*2-5", "7+2*3-4+5*6-1", "9-2*3+8"]
        together = run.solve_all(questions)
        assert [s.answer for s in together] == ["6", "38", "11"]
        assert together[1] == run.solve(questions[1])
        few = run.solve(questions[1], simulations=1)
        assert few.simulations <= 1
        with pytest.raises(TaskError):
            run.solve("no sum")
        with pytest.raises(UsageError, match="no kind 'any'"):
            next(run.searches(1, kind="any"))


def test_a_setting_that_is_none_and_a_run_that_is_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="simulation"), api.open_run(**{"search.simulation": 3}):
        pass
    with pytest.raises(NotFoundError), api.open_run("mine", store=f"sqlite:///{tmp_path}/no.db"):
        pass


@pytest.mark.round
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "docs" / "api.ipynb").read_text())["cells"]
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code"))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=230,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
