"""A round small enough for a test, and the same round as a command of its own process."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent.parent

SMALL: dict[str, Any] = {
    "problems_per_round": 10,
    "num_seeds": 20,
    "search.leaves": "states",  # random policies finish no text of theirs
    "search.simulations": 4,
    "search.unsound": "keep",
    "search.max_tokens": 300,
    "hosting.hosting": "inline",
    "hosting.cohort": 4,
    "hosting.speculation": "never",  # costs and the self-test take longer than so small a round
    "hosting.text_tokens": 20,
    "hosting.option_tokens": 8,
    "critics.num_labelled": 16,
    "critics.samples": 2,
    "critics.steps": 3,
    "training.num_steps": 4,
    "training.drafter_steps": 2,
    "selection.must_be_sound": False,
    "selection.must_answer": False,
    "evaluation.num_problems": 12,
    "evaluation.num_search_problems": 3,
}


def places(folder: Path) -> dict[str, str]:
    return {"store": f"sqlite:///{folder}/store.db", "checkpoints": f"{folder}/checkpoints"}


def improve(
    folder: Path, policy: Path | str, failpoint: str = "", timeout_s: float = 200, **flags: Any
) -> subprocess.CompletedProcess[str]:
    """`ratchet improve` in a process of its own; killed at the failpoint where one is named.

    A flag that is None is left unset.
    """
    settings = SMALL | places(folder) | {"policy": str(policy)} | flags
    set_ones = {k: v for k, v in settings.items() if v is not None}
    arguments = [part for k, v in set_ones.items() for part in ("--set", f"{k}={v}")]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
    environment["OMP_NUM_THREADS"] = "1"
    if failpoint:
        environment["RATCHET_FAILPOINT"] = failpoint
    return subprocess.run(
        [sys.executable, "-m", "agent", "improve", "--json", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
    )
