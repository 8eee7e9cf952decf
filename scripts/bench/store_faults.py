"""Faults that are not kills: disks, servers, checkpoints, scores, races, versions, clocks.

Each is done to the real thing and counted: S1 to S12 of the names below. Nothing is asserted.
"""

import multiprocessing
import random
import subprocess
import sys
import threading
import time
from typing import Any

from alembic import command
from sqlalchemy import func, select, text, update

from scripts.bench.databases import Databases
from scripts.bench.report import Row, counted, missing
from scripts.bench.store_damage import damaged_checkpoints, non_finite_scores, non_finite_weights
from scripts.bench.store_disk import full_disk, full_server
from scripts.bench.store_kills import GOES_ON, ROOT, SEED, command_for, environment
from scripts.bench.store_world import finished, planned, record
from search.errors import BusyError, StoreAwayError, StoreError
from store import leases
from store.check import check_store
from store.database import Store, alembic_config, now_us, open_store
from store.leases import RunLease
from store.schema import Event, Run, SearchRow


def faults(databases: Databases, is_quick: bool) -> list[Row]:
    few = 10 if is_quick else 1
    label = databases.kind
    rows: list[Row] = []
    if label == "sqlite":
        rows += full_disk(databases, 200 // few)
        rows += damaged_checkpoints(databases, 100 // few)
        rows += non_finite_weights()
        rows += non_finite_scores()
    else:
        rows += full_server(20 // few, databases.folder)
        rows += server_away(databases, 3.0 if is_quick else 30.0, is_quick)
        rows += cut_connections(databases, 100 // few)
    rows += races(databases, 100 // few)
    rows += fresh_stores(databases, 1 if is_quick else 5)
    rows += versions(databases)
    rows += clocks(databases)
    return rows


def server_away(databases: Databases, away_s: float, is_quick: bool) -> list[Row]:
    """S2, and S3 for half an hour: the server stops at once in mid-search and comes back; nobody
    touches the command."""
    url = databases.new("away")
    name = "s2" if away_s < 600 else "s3"
    num = 40 if is_quick else 1500
    arguments = command_for(
        url,
        databases.folder,
        **{
            "problems_per_round": num,
            "search.simulations": 16,
            "search.max_tokens": 2000,
            "hosting.cohort": 50,
            "search.unsound": "prune",
            "hosting.store_wait_s": max(1800.0, 2 * away_s),
        },
    )
    process = subprocess.Popen(
        arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    store = open_store(url)
    while process.poll() is None and _count(store, SearchRow.ended_ts.is_not(None)) == 0:
        time.sleep(0.1)
    store.close()
    databases.stop()
    time.sleep(away_s)
    databases.start()
    _, complaint = process.communicate(timeout=900)
    store = open_store(url)
    with store.session() as session:
        seen = session.scalars(select(Event.payload).where(Event.kind == "store-away")).all()
        planned_, ended = session.execute(
            select(func.count(), func.count(SearchRow.ended_ts))
        ).one()
    broken = sum(check_store(store).values())
    store.close()
    if process.returncode not in GOES_ON or not seen:
        why = complaint.decode()[-200:] or "the search was over before"
        return [missing(f"{name}_lost_postgresql", f"exit {process.returncode}: {why}")]
    told = f"server away for {away_s:g} s in mid-search, {num} searches"
    entries, drain_s = sum(s["entries"] for s in seen), max(s["drain_s"] for s in seen)
    return [
        counted(f"{name}_lost_postgresql", planned_ - ended, "searches", num, told),
        counted(f"{name}_broken_postgresql", broken, "violations", num, told),
        counted(
            f"{name}_spooled_postgresql", entries, "answers", 1, "told to searches meanwhile", 1
        ),
        counted(f"{name}_drain_s_postgresql", drain_s, "s", 1, "spool and searches, on return", 10),
    ]


def _count(store: Store, condition: Any) -> int:
    with store.session() as session:
        return int(
            session.scalar(select(func.count()).select_from(SearchRow).where(condition)) or 0
        )


def cut_connections(databases: Databases, num: int) -> list[Row]:
    """S4. Connections are cut again and again, in commits too; each record is tried again."""
    url = databases.new("cut")
    store = open_store(url)
    ids, search = planned(store, num), finished()
    over = threading.Event()
    rng = random.Random(SEED)

    def cut() -> None:
        other = open_store(url)
        with other.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not over.wait(rng.uniform(0.005, 0.05)):
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
        other.close()

    thread = threading.Thread(target=cut)
    thread.start()
    failed = unmapped = 0
    for search_id in ids:
        for _ in range(200):
            try:
                record(store, search_id, search)
                break
            except StoreAwayError:
                failed += 1
            except Exception as error:
                unmapped += 1
                print(f"unmapped: {type(error).__name__}: {error}"[:200])
    over.set()
    thread.join()
    ended = _count(store, SearchRow.ended_ts.is_not(None))
    broken = sum(check_store(store).values())
    store.close()
    told = f"{failed} of {failed + num} tries were cut off"
    return [
        counted("s4_lost_postgresql", num - ended, "searches", num, told),
        counted("s4_broken_postgresql", broken, "violations", num, told),
        counted("s4_unmapped_postgresql", unmapped, "errors", num, told),
    ]


def _racer(url: str, ids: list[int], barrier: Any, results: Any) -> None:
    store, won = open_store(url), []
    for run_id in ids:
        barrier.wait()
        try:
            RunLease(store, run_id)
            won.append(run_id)
        except BusyError as error:
            if not error.fix:
                won.append(-1)
    barrier.wait()
    results.put(won)
    store.close()


def races(databases: Databases, num: int) -> list[Row]:
    """S9. Two processes take the same run at the same moment."""
    url = databases.new("races")
    store = open_store(url)
    with store.session() as session:
        for i in range(num):
            session.add(
                Run(
                    name=f"r{i}",
                    task="t",
                    config={},
                    config_sha="",
                    code_version="",
                    seed=1,
                    created_ts=now_us(),
                )
            )
    with store.session() as session:
        ids = list(session.scalars(select(Run.id)))
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_racer, args=(url, ids, barrier, results)) for _ in "ab"]
    for p in processes:
        p.start()
    won = [run_id for _ in processes for run_id in results.get()]
    for p in processes:
        p.join()
    store.close()
    twice = sum(won.count(i) != 1 for i in ids)
    return [
        counted(
            f"s9_not_exactly_one_{databases.kind}",
            twice,
            "races",
            num,
            "two processes, one run; the other one is told who has it",
        )
    ]


def fresh_stores(databases: Databases, num: int) -> list[Row]:
    """S10. Eight processes open an empty database at once."""
    failed = 0
    for i in range(num):
        url = databases.new(f"fresh{i}")
        code = f"from store.database import open_store; open_store({url!r}).close()"
        opened = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(8)]
        failed += sum(process.wait() != 0 for process in opened)
    return [
        counted(
            f"s10_failed_{databases.kind}",
            failed,
            "processes",
            8 * num,
            "eight processes at once, an empty database",
        )
    ]


def versions(databases: Databases) -> list[Row]:
    """S11. An older store, a newer one, the last two revisions down and up again."""
    url = databases.new("versions")
    store = open_store(url)
    ids = planned(store, 1)
    record(store, ids[0], finished())
    wrong = 0
    for steps in (1, 2):
        command.downgrade(alembic_config(store.engine), f"-{steps}")
        wrong += "ratchet store migrate" not in _refusal(url)
        command.upgrade(alembic_config(store.engine), "head")
    wrong += sum(check_store(store).values())
    with store.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    wrong += "update Ratchet" not in _refusal(url)
    store.close()
    return [
        counted(
            f"s11_wrong_{databases.kind}",
            wrong,
            "of all",
            4,
            "older by one, by two, newer: refused with the command; invariants",
        )
    ]


def _refusal(url: str) -> str:
    try:
        open_store(url).close()
    except StoreError as error:
        return error.fix
    return ""


def clocks(databases: Databases) -> list[Row]:
    """S12. The clock jumps while another process of this host holds the run."""
    url = databases.new("clocks")
    store = open_store(url)
    planned(store, 1, name="clocks")
    with store.session() as session:
        run_id = session.scalars(select(Run.id)).one()
    code = (
        "import sys, time; from store.database import open_store; "
        "from store.leases import RunLease; "
        "RunLease(open_store(sys.argv[1]), int(sys.argv[2])); print('held', flush=True); "
        "time.sleep(999)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, url, str(run_id)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    real, stolen = leases.clock_us, 0
    hours = (1, -1, 24, -24, 87_660, -87_660)
    try:
        for jump in hours:
            us = jump * 3_600_000_000
            leases.clock_us = lambda s, us=us: real(s) + us  # type: ignore[misc]
            try:
                RunLease(store, run_id)
                stolen += 1
            except BusyError:
                pass
    finally:
        leases.clock_us = real
        holder.kill()
        holder.wait()
    taken = RunLease(store, run_id)
    with store.session() as session:
        session.execute(update(Run).values(owner=""))
    store.close()
    return [
        counted(
            f"s12_stolen_{databases.kind}",
            stolen,
            "leases",
            len(hours),
            "one hour, one day, ten years, both ways; holder of the same host",
        ),
        counted(
            f"s12_kept_by_the_dead_{databases.kind}",
            taken.fence < 2,
            "leases",
            1,
            "the holder killed",
        ),
    ]
