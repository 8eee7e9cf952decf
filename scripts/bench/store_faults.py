"""Faults that are not kills: disks, servers, checkpoints, scores, races, versions, clocks.

Each is done to the real thing and counted: S1 to S12 of the names below. Nothing is asserted.
"""

import multiprocessing
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from alembic import command
from databases import Databases
from report import Row, missing, repeats
from sqlalchemy import event, func, select, text, update
from store_kills import ROOT, SEED, command_for, environment
from store_world import ScoredWorld, finished, planned, record

from agent.custody import current_models, fault_of
from agent.engine.checkpoint import inspect_checkpoint, load_decoder
from agent.models import register
from agent.tasks.registry import embedded_path
from agent.training.publish import NonFiniteError, publish
from critics.outcome import OutcomeCritic
from search import frontier
from search.errors import BusyError, ResourceError, StoreAwayError, StoreError
from search.interfaces import EvaluateRequest, Evaluation
from search.mcts import Search
from search.settings import SearchSettings
from search.state import State
from store import leases
from store.check import check_store
from store.database import Store, alembic_config, now_us, open_store, sqlite_path
from store.leases import RunLease
from store.schema import CheckpointRow, Event, Round, Run, SearchRow


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
        rows += server_away(databases, 3.0 if is_quick else 30.0, is_quick)
        rows += cut_connections(databases, 100 // few)
    rows += races(databases, 100 // few)
    rows += fresh_stores(databases, 1 if is_quick else 5)
    rows += versions(databases)
    rows += clocks(databases)
    return rows


def _row(name: str, value: float, unit: str, n: int, baseline: str, target: float = 0) -> Row:
    return {"name": name, "value": value, "unit": unit, "n": n, "baseline": baseline,
            "target": target}  # fmt: skip


def full_disk(databases: Databases, num: int) -> list[Row]:
    """S1. A file that may grow by n pages more, n = 1, 2, ..., while searches are recorded."""
    url = databases.new("template")
    template = open_store(url)
    ids, search = planned(template, 40), finished()
    with template.session() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
    template.close()
    source = sqlite_path(url)
    assert source is not None
    unclear = corrupt = broken = lost = 0
    for more in range(1, num + 1):
        path = source.with_name(f"full-{more}.db")
        shutil.copyfile(source, path)
        store = open_store(f"sqlite:///{path}")
        _bound(store, pages + more)
        ended = 0
        try:
            for search_id in ids:
                ended += record(store, search_id, search)
        except ResourceError as error:
            unclear += str(path) not in error.message or "free" not in error.fix
        store.close()
        again = open_store(f"sqlite:///{path}")
        with again.session() as session:
            corrupt += session.execute(text("PRAGMA integrity_check")).scalar_one() != "ok"
            left = session.scalars(select(SearchRow.id).where(SearchRow.status == "running")).all()
        broken += sum(check_store(again).values())
        lost += len(ids) - len(left) != ended
        lost += sum(not record(again, i, search) for i in left)
        broken += sum(check_store(again).values())
        again.close()
        path.unlink()
    return [
        _row("s1_corrupt_sqlite", corrupt, "files", num, "integrity_check, disk full at n pages"),
        _row("s1_unclear_errors_sqlite", unclear, "errors", num, "names the path and the way out"),
        _row("s1_broken_sqlite", broken, "violations", num, "then and after the rest is recorded"),
        _row("s1_lost_sqlite", lost, "searches", num, "40 searches each"),
    ]


def _bound(store: Store, most: int) -> None:
    store.engine.dispose()

    @event.listens_for(store.engine, "connect")
    def bound(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most}")


def server_away(databases: Databases, away_s: float, is_quick: bool) -> list[Row]:
    """S2. The server stops at once in mid-search and comes back; nobody touches the command."""
    url = databases.new("away")
    num = 40 if is_quick else 1500
    arguments = command_for(url, databases.folder, **{
        "problems_per_round": num, "search.simulations": 16, "search.max_tokens": 2000,
        "hosting.cohort": 50, "search.unsound": "prune",
    })  # fmt: skip
    process = subprocess.Popen(arguments, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)  # fmt: skip
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
    if process.returncode or not seen:
        why = complaint.decode()[-200:] or "the search was over before"
        return [missing("s2_lost_postgresql", f"exit {process.returncode}: {why}")]
    told = f"server away for {away_s:g} s in mid-search, {num} searches"
    entries, drain_s = sum(s["entries"] for s in seen), max(s["drain_s"] for s in seen)
    return [
        _row("s2_lost_postgresql", planned_ - ended, "searches", num, told),
        _row("s2_broken_postgresql", broken, "violations", num, told),
        _row("s2_spooled_postgresql", entries, "answers", 1, "told to searches meanwhile", 1),
        _row("s2_drain_s_postgresql", drain_s, "s", 1, "spool and ended searches, on return", 10),
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
                connection.execute(text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                ))  # fmt: skip
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
        _row("s4_lost_postgresql", num - ended, "searches", num, told),
        _row("s4_broken_postgresql", broken, "violations", num, told),
        _row("s4_unmapped_postgresql", unmapped, "errors", num, told),
    ]


def damaged_checkpoints(databases: Databases, num: int) -> list[Row]:
    """S5, S6. One byte flipped, a file cut or gone; then the version before it is used."""
    folder = databases.folder / "damaged"
    source = embedded_path("expressions", "policy")
    assert source is not None
    first = inspect_checkpoint(source)
    older = publish(load_decoder(first), first, folder, "policy", {})
    decoder = load_decoder(older)
    with torch.no_grad():
        next(decoder.parameters()).add_(1e-3)
    newer = publish(decoder, older, folder, "policy", {})
    store = open_store(databases.new("custody"))
    with store.session() as session:
        for checkpoint, parent in ((older, None), (newer, older.version)):
            register(session, "policy", checkpoint, parent)
        session.add(Run(id=1, name="r", task="t", config={}, config_sha="", code_version="", seed=1,
                        created_ts=now_us()))  # fmt: skip
        session.flush()
        session.add(Round(run_id=1, number=1, stage="promoted", models={"policy": older.version},
                          candidates={"policy": newer.version}, search_config={}, config_sha="",
                          timings={}, started_ts=now_us()))  # fmt: skip
    rng = random.Random(SEED)
    files = sorted(newer.path.iterdir())
    rows: list[Row] = []
    began = time.perf_counter()
    load_decoder(inspect_checkpoint(older.path))
    load_s = time.perf_counter() - began
    for name, damage in (("s5", _flip), ("s6", _cut)):
        seen = fallen = 0
        times: list[float] = []
        for _ in range(num):
            file = rng.choice(files)
            whole = file.read_bytes()
            damage(file, whole, rng)
            with store.session() as session:
                row = session.scalars(
                    select(CheckpointRow).where(CheckpointRow.version == newer.version)
                ).one()
                seen += bool(fault_of(row))
            began = time.perf_counter()
            models = current_models(store, 1, _quiet)
            times.append((time.perf_counter() - began) / load_s)
            with store.session() as session:
                status = session.scalars(
                    select(CheckpointRow.status).where(CheckpointRow.version == newer.version)
                ).one()
            assert models is not None
            fallen += models["policy"].version == older.version and status == "quarantined"
            file.write_bytes(whole)
            current_models(store, 1, _quiet)
        told = "one byte flipped in any file" if name == "s5" else "a file cut, emptied or gone"
        rows += [
            _row(f"{name}_detected_sqlite", seen, "of all", num, f"{told}, before loading", num),
            _row(f"{name}_parent_used_sqlite", fallen, "of all", num, "and the row quarantined",
                 num),
            repeats(f"{name}_fallback_sqlite", times, "loads", "time of one load", target=1.0),
        ]  # fmt: skip
    store.close()
    return rows


def _quiet(text: str) -> None: ...


def _flip(file: Path, whole: bytes, rng: random.Random) -> None:
    place = rng.randrange(len(whole))
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])


def _cut(file: Path, whole: bytes, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.2:
        file.unlink()
    else:
        file.write_bytes(whole[: 0 if kind < 0.4 else rng.randrange(len(whole))])


def non_finite_weights() -> list[Row]:
    """S7. One element, all of a tensor, and one that only bfloat16 cannot hold."""
    source = embedded_path("expressions", "policy")
    assert source is not None
    parent = inspect_checkpoint(source)
    cases: list[tuple[Callable[[torch.Tensor], object], torch.dtype]] = [
        (lambda t: t.view(-1)[3:4].fill_(float("nan")), torch.float32),
        (lambda t: t.view(-1)[3:4].fill_(float("inf")), torch.float32),
        (lambda t: t.fill_(float("nan")), torch.float32),
        (lambda t: t.view(-1)[3:4].fill_(3.4e38), torch.bfloat16),
    ]
    refused = left = 0
    for spoil, dtype in cases:
        decoder = load_decoder(parent)
        with torch.no_grad():
            spoil(list(decoder.parameters())[-1])
        with tempfile.TemporaryDirectory() as folder:
            try:
                publish(decoder, parent, Path(folder), "policy", {}, dtype)
            except NonFiniteError:
                refused += 1
            left += len(list(Path(folder).iterdir()))
    told = "NaN, infinity, a whole tensor, a number that bfloat16 cannot hold"
    return [
        _row("s7_rejected", refused, "of all", len(cases), told, len(cases)),
        _row("s7_left_on_disk", left, "directories", len(cases), told),
    ]


class _BrokenCritic(ScoredWorld):
    """Every third evaluation has a score that is no number."""

    num = 0

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        found = []
        for evaluation in super().evaluate(requests):
            self.num += 1
            if self.num % 3 == 0:
                logit = (float("nan"), float("inf"), float("-inf"))[self.num // 3 % 3]
                score = OutcomeCritic("v")._score(logit)
                evaluation = Evaluation(score.value, (score,), (), evaluation.num_tokens)
            found.append(evaluation)
        return found


def non_finite_scores() -> list[Row]:
    """S8. They never enter W, are counted, and the search goes on to its end."""
    world = _BrokenCritic(depth=6)
    settings = SearchSettings(simulations=64, max_tokens=0, importance=0.0, min_width=8,
                              max_width=8)  # fmt: skip
    searches = [Search(State("p", (1, 2, 3), "a problem"), settings, seed) for seed in range(20)]
    frontier.run(searches, world, world)
    values = [e.q for s in searches for n in s.nodes for e in n.edges if e.visits]
    wrong = sum(q is None or not 0 <= q <= 1 for q in values)
    unended = sum(not s.is_done for s in searches)
    uncounted = sum(s.num_unscored == 0 for s in searches)
    told = "a third of all scores NaN or infinite"
    return [
        _row("s8_values_spoiled", wrong, "edges", len(searches), told),
        _row("s8_not_ended", unended, "searches", len(searches), told),
        _row("s8_not_counted", uncounted, "searches", len(searches), told),
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
            session.add(Run(name=f"r{i}", task="t", config={}, config_sha="", code_version="",
                            seed=1, created_ts=now_us()))  # fmt: skip
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
    return [_row(f"s9_not_exactly_one_{databases.kind}", twice, "races", num,
                 "two processes, one run; the other one is told who has it")]  # fmt: skip


def fresh_stores(databases: Databases, num: int) -> list[Row]:
    """S10. Eight processes open an empty database at once."""
    failed = 0
    for i in range(num):
        url = databases.new(f"fresh{i}")
        code = f"from store.database import open_store; open_store({url!r}).close()"
        opened = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(8)]
        failed += sum(process.wait() != 0 for process in opened)
    return [_row(f"s10_failed_{databases.kind}", failed, "processes", 8 * num,
                 "eight processes at once, an empty database")]  # fmt: skip


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
    return [_row(f"s11_wrong_{databases.kind}", wrong, "of all", 4,
                 "older by one, by two, newer: refused with the command; invariants")]  # fmt: skip


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
    holder = subprocess.Popen([sys.executable, "-c", code, url, str(run_id)], cwd=ROOT,
                              stdout=subprocess.PIPE)  # fmt: skip
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
        _row(f"s12_stolen_{databases.kind}", stolen, "leases", len(hours),
             "one hour, one day, ten years, both ways; holder of the same host"),
        _row(f"s12_kept_by_the_dead_{databases.kind}", taken.fence < 2, "leases", 1,
             "the holder killed"),
    ]  # fmt: skip
