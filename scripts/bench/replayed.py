"""Do the trees of a round depend on its workers, or on being killed?"""

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ray

from scripts.bench.report import Row, share

ROOT = Path(__file__).resolve().parent.parent.parent


def replay(quick: bool) -> list[Row]:
    """Digests of all trees of a round: 1, 2 and 4 policy workers, and killed in between."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    info = ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        namespace="ratchet",
    )
    address = str(info.address_info["gcs_address"])
    try:
        plain = searched_round(address, 1, [], quick)
        rows = [
            share(
                f"replay_equal@{workers}_workers",
                int(searched_round(address, workers, [], quick) == plain),
                1,
                "one worker",
            )
            for workers in (2, 4)
        ]
        killed = searched_round(
            address,
            2,
            ["after-search-commit:9", "after-journal:3", "before-search-commit:5"],
            quick,
        )
        rows.append(share("replay_equal_after_3_kills", int(killed == plain), 1, "one worker"))
    finally:
        ray.shutdown()
    return rows


def searched_round(address: str, workers: int, kills: Sequence[str], quick: bool) -> str:
    """Digest of the trees of a round that was killed at each of these points, then searched on."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "problems_per_round": 24 if quick else 96,
            "hosting.cohort": 8 if quick else 16,
            "search.simulations": 8,
            "hosting.workers": workers,
            "hosting.hosting": "ray",
            "hosting.ray_address": address,
            "store": f"sqlite:///{folder}/store.db",
            "checkpoints": f"{folder}/checkpoints",
        }
        flags = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
        for point in (*kills, "after-searching"):
            done = subprocess.run(
                [sys.executable, "-m", "agent", "improve", *flags],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env=os.environ | {"RATCHET_FAILPOINT": point},
            )
            if done.returncode != -signal.SIGKILL:
                raise RuntimeError(f"failpoint {point} was not reached: {done.stderr[-2000:]}")
        return digest(Path(folder) / "store.db")


def digest(file: Path) -> str:
    """Of every node, text and simulation, bit for bit."""
    questions = (
        "SELECT s.position, n.* FROM nodes n JOIN searches s ON s.id = n.search_id ORDER BY 1, 3",
        "SELECT search_id, ix, text FROM node_texts ORDER BY 1, 2",
        "SELECT * FROM simulations ORDER BY search_id, seq",
        "SELECT position, answer, num_tokens, confidence FROM searches ORDER BY 1",
    )
    found = hashlib.sha256()
    with sqlite3.connect(file) as connection:
        for question in questions:
            for row in connection.execute(question):
                found.update(repr(row).encode())
    return found.hexdigest()
