"""Rounds of the real command, killed again and again: what is lost, doubled or half written."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from sqlalchemy import create_engine, func, select, text
from sqlalchemy.exc import SQLAlchemyError

from agent.rounds.failpoints import POINTS
from scripts.bench.databases import Databases
from scripts.bench.report import Row, missing, repeats
from store.check import check_store
from store.database import open_store
from store.schema import CheckpointRow, Round, SearchRow, TrajectoryRow
from store.states import ENDED

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = 20_261_123
GOES_ON = (0, 4)
"""Exit codes of a command that came to its end; 4: its small round found nothing to learn from."""
WORK = """SELECT (SELECT count(*) FROM search_journals), (SELECT count(*) FROM searches),
(SELECT count(*) FROM searches WHERE ended_ts IS NOT NULL), (SELECT count(*) FROM checkpoints),
(SELECT count(*) FROM evaluations), (SELECT max(id) FROM events), (SELECT max(stage) FROM rounds
WHERE id = (SELECT max(id) FROM rounds))"""
"""Changes with every bit of work that is committed, not with a start or a heartbeat."""


class Watch:
    """Seconds from a command's start to the first work that it commits."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url)
        self.started = time.monotonic()
        self.seconds: float | None = None
        self._before = self._read()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _read(self) -> object:
        try:
            with self.engine.connect() as connection:
                return tuple(connection.execute(text(WORK)).one())
        except SQLAlchemyError:
            return None

    def _look(self) -> None:
        while not self._over.wait(0.1):
            now = self._read()
            if now is not None and now != self._before:
                self.seconds = time.monotonic() - self.started
                return

    def close(self) -> float | None:
        self._over.set()
        self._thread.join()
        self.engine.dispose()
        return self.seconds


def command_for(url: str, folder: Path, **more: object) -> list[str]:
    """A round of the embedded default, made small."""
    from tests.agent.rounds.small import SMALL

    settings = (
        SMALL
        | {
            "store": url,
            "checkpoints": str(folder / "checkpoints"),
            "task": "expressions",
            "search.unsound": "prune",
        }
        | more
    )
    arguments = [p for k, v in settings.items() for p in ("--set", f"{k}={v}")]
    return [sys.executable, "-m", "agent", "improve", "--json", *arguments]


def environment(failpoint: str = "") -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
    found["OMP_NUM_THREADS"] = "1"
    return found | ({"RATCHET_FAILPOINT": failpoint} if failpoint else {})


def kills(databases: Databases, num: int) -> list[Row]:
    """Every process but each last one is killed, or its server is."""
    label = databases.kind
    url = databases.new("kills")
    rng = random.Random(SEED)
    command = command_for(url, databases.folder)
    done = stops = rounds = failures = 0
    resumes: list[float] = []
    while done + stops < num:
        is_named = rng.random() < 0.7
        is_stop = label == "postgresql" and not is_named and rng.random() < 0.5
        after_s = rng.uniform(3, 12)
        point = f"{rng.choice(POINTS)}:{rng.choice((1, 1, 2, 3))}" if is_named else ""
        is_resume = done + stops > 0
        watch = Watch(url)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(point),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _, complaint = process.communicate(timeout=200 if is_named else after_s)
        except subprocess.TimeoutExpired:
            if is_stop:
                databases.stop()
                time.sleep(rng.uniform(0.2, 3))
                databases.start()
                stops += 1
                _, complaint = process.communicate(timeout=300)
            else:
                process.kill()
                _, complaint = process.communicate()
        seconds = watch.close()
        if seconds is not None and is_resume:
            resumes.append(seconds)
        if process.returncode == -signal.SIGKILL:
            done += 1
        elif process.returncode in GOES_ON:
            rounds += 1
        else:
            failures += 1
            print(f"exit {process.returncode}: {complaint.decode()[-300:]}", flush=True)
        if (done + stops) % 20 == 0:
            print(f"{label}: {done} kills, {stops} server stops, {rounds} whole rounds", flush=True)
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, timeout=400)
    return _found(url, label, done, stops, rounds, failures, resumes)


def _found(
    url: str, label: str, done: int, stops: int, rounds: int, failures: int, resumes: list[float]
) -> list[Row]:
    store = open_store(url)
    broken = check_store(store)
    with store.session() as session:
        unfinished = session.scalar(
            select(func.count()).select_from(Round).where(Round.stage.not_in(ENDED))
        )
        planned, ended = session.execute(select(func.count(), func.count(SearchRow.ended_ts))).one()
        doubled = session.execute(
            select(TrajectoryRow.search_id, TrajectoryRow.sha)
            .group_by(TrajectoryRow.search_id, TrajectoryRow.sha)
            .having(func.count() > 1)
        ).all()
        gone = [p for p in session.scalars(select(CheckpointRow.path)) if not Path(p).is_dir()]
    store.close()
    n = done + stops
    return [
        {
            "name": f"kills_{label}",
            "value": done,
            "unit": "kills",
            "n": n,
            "baseline": f"{stops} immediate server stops besides; "
            f"{rounds} commands ended by themselves",
        },
        {
            "name": f"lost_{label}",
            "value": planned - ended + len(gone),
            "n": n,
            "target": 0,
            "unit": "searches or checkpoints",
            "baseline": f"{planned} searches planned",
        },
        {
            "name": f"duplicated_{label}",
            "value": len(doubled),
            "unit": "trajectories",
            "n": n,
            "target": 0,
        },
        {
            "name": f"partial_{label}",
            "value": sum(broken.values()),
            "unit": "violated invariants",
            "n": n,
            "target": 0,
            "baseline": f"{len(broken)} invariants",
        },
        {
            "name": f"failed_resumes_{label}",
            "value": failures,
            "unit": "exits",
            "n": n,
            "target": 0,
            "baseline": f"rounds left open at the end: {unfinished}",
        },
        repeats(
            f"resume_s_{label}",
            resumes,
            "s",
            "start of the command to its first commit of new work, imports and models included",
            target=30,
        )
        if resumes
        else missing(f"resume_s_{label}", "too few kills"),
    ]
