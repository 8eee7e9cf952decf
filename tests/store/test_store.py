"""Rules of the store, on both databases: one transaction a search, one worker a run."""

import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import event, func, inspect, select, text, update

from search import frontier
from search.errors import BusyError, NotFoundError, ResourceError, StoreError, UsageError
from search.mcts import Search
from search.settings import SearchSettings, UnsoundRule
from search.simulation_log import Simulation, rebuild
from search.state import Problem
from store import leases
from store.address import sqlite_path
from store.check import check_store
from store.database import Store, alembic_config, open_store
from store.datasets import dataset_of, freeze_dataset, read_dataset
from store.inspection import ask_sql, list_searches, read_siblings, read_tree
from store.leases import RunLease
from store.partitions import PARTITIONED, is_partition
from store.recording import (
    Claim,
    add_journal,
    add_problems,
    claim,
    plan_searches,
    read_journals,
    record_search,
)
from store.runs import create_run
from store.schema import Base, NodeRow, Round, Run, SearchRow, SimulationRow, TrajectoryRow
from store.selection import SelectionRule
from tests.fakes import DigitWorld, root
from tests.rows import a_round, a_run

ROOT = Path(__file__).parent.parent.parent


def new_round(store: Store, digits: tuple[str, ...] = ("31", "12")) -> tuple[int, int, list[int]]:
    """(run id, round id, search ids) of a planned round."""
    with store.session() as session:
        run = a_run(task="digits")
        session.add(run)
        session.flush()
        row = a_round(run.id, 1, "searching")
        session.add(row)
        session.flush()
        problems = [Problem(d, d, d) for d in digits]
        rows = add_problems(session, "digits", problems, row.id)
        plan_searches(session, row, [(p.id, 5) for p in rows])
        searches = session.scalars(select(SearchRow.id).order_by(SearchRow.position)).all()
        return run.id, row.id, list(searches)


def finished_search(
    digits: str = "31", world: DigitWorld | None = None, unsound: UnsoundRule = "prune"
) -> Search:
    world = world or DigitWorld()
    settings = SearchSettings(simulations=12, min_width=4, max_width=4, unsound=unsound)
    search = Search(root(digits), settings, seed=7)
    frontier.run([search], world, world)
    return search


def record(store: Store, search_id: int, fence: int, search: Search, digits: str = "31") -> bool:
    held = Claim(search_id, fence, "policy-1")
    return record_search(store, held, search, lambda a: None if a is None else a == digits)


def recorded(store: Store, search: Search | None = None) -> int:
    """Id of a search that was claimed, run and written."""
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids[:1], fence=1)
    assert record(store, ids[0], 1, search or finished_search())
    return ids[0]


def count(store: Store, table: type[Base]) -> int:
    with store.session() as session:
        return int(session.execute(select(func.count()).select_from(table)).scalar_one())


def test_migrations_equal_the_models(store: Store) -> None:
    with store.engine.connect() as connection:

        def is_compared(thing: Any, name: str, kind: str, *_: object) -> bool:
            if connection.dialect.name == "sqlite":
                return True
            is_key_of_large = kind == "foreign_key_constraint" and thing.table.name in PARTITIONED
            return not (is_key_of_large or (kind == "table" and is_partition(name)))

        options = {"compare_type": True, "include_object": is_compared}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_down_and_up_again(url: str) -> None:
    store = open_store(url)
    command.downgrade(alembic_config(store.engine), "base")
    assert set(inspect(store.engine).get_table_names()) <= {"alembic_version"}
    command.upgrade(alembic_config(store.engine), "head")
    assert set(Base.metadata.tables) <= set(inspect(store.engine).get_table_names())
    store.close()


def test_migrations_keep_what_a_store_holds(store: Store) -> None:
    search_id = recorded(store)
    before = read_tree(store, search_id)
    for steps in (1, 2):
        command.downgrade(alembic_config(store.engine), f"-{steps}")
        command.upgrade(alembic_config(store.engine), "head")
    assert read_tree(store, search_id) == before
    assert count(store, SearchRow) == 2 and count(store, TrajectoryRow) > 0
    assert not any(check_store(store).values())


def test_passwords_that_older_versions_stored_are_hidden_by_migrating(url: str) -> None:
    store = open_store(url)
    secret = "postgresql+psycopg://u:s3cr3t-pw@h:1/d"
    with store.session() as session:
        create_run(
            session,
            "old",
            task="t",
            config={"store": secret, "seed": 1, "deep": [{"u": secret}], "x": "http://h/a@b"},
            config_sha="c",
            code_version="v",
            seed=0,
        )
    command.downgrade(alembic_config(store.engine), "0010")
    command.upgrade(alembic_config(store.engine), "head")
    with store.session() as session:
        config = session.scalar(select(Run.config).where(Run.name == "old"))
    hidden = "postgresql+psycopg://u:***@h:1/d"
    assert config == {"store": hidden, "seed": 1, "deep": [{"u": hidden}], "x": "http://h/a@b"}
    store.close()


def test_many_processes_may_open_a_fresh_store_at_once(url: str) -> None:
    code = f"from store.database import open_store; open_store({url!r}).close()"
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    complaints = [process.communicate(timeout=120)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0] * 6, complaints
    opened = open_store(url)
    assert set(Base.metadata.tables) <= set(inspect(opened.engine).get_table_names())
    opened.close()


def test_a_search_is_written_whole_and_only_once(store: Store) -> None:
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    search = finished_search()
    assert record(store, ids[0], 1, search) is True
    nodes = count(store, NodeRow)
    assert nodes == sum(len(n.edges) for n in search.nodes) + 1
    assert record(store, ids[0], 1, search) is False
    assert count(store, NodeRow) == nodes
    assert count(store, TrajectoryRow) == len(search.candidates)
    assert not any(check_store(store).values())


def test_a_server_keeps_the_rows_of_each_round_in_partitions_of_their_own(store: Store) -> None:
    if store.engine.dialect.name == "sqlite":
        assert not any(is_partition(name) for name in inspect(store.engine).get_table_names())
        return
    search_id = recorded(store)
    with store.session() as session:
        (round_id,) = session.scalars(select(Round.id)).all()
        for table in PARTITIONED:
            homes = session.execute(
                text(f"SELECT DISTINCT tableoid::regclass::text FROM {table} WHERE search_id = :s"),
                {"s": search_id},
            ).scalars()
            assert list(homes) == [f"{table}_r_{round_id}"]
        plan = session.execute(
            text("EXPLAIN SELECT * FROM nodes WHERE search_id = :s"), {"s": search_id}
        ).scalars()
        assert "nodes_default" not in " ".join(plan)


def test_a_worker_with_an_old_fence_writes_nothing(store: Store) -> None:
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=2))
        claim(session, ids, fence=1)
        claim(session, ids, fence=2)
    search = finished_search()
    assert record(store, ids[0], 1, search) is False
    assert count(store, NodeRow) == 0
    assert record(store, ids[0], 2, search) is True


def test_a_failure_while_writing_leaves_nothing_of_the_search(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    search = finished_search()
    broken = replace(search.candidates[0].rollout, answer=object())  # type: ignore[arg-type]
    search.candidates[0] = replace(search.candidates[0], rollout=broken)
    with pytest.raises(StoreError):
        record(store, ids[0], 1, search)
    assert count(store, NodeRow) == 0
    with store.session() as session:
        assert session.get_one(SearchRow, ids[0]).status == "running"


def test_the_checker_sees_a_broken_tree(store: Store) -> None:
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    record(store, ids[0], 1, finished_search())
    with store.session() as session:
        session.execute(text("UPDATE nodes SET visits = visits + 1 WHERE ix = 1"))
        session.execute(text("UPDATE nodes SET value_sum = value_sum + 1 WHERE ix = 2"))
        session.execute(text("UPDATE nodes SET parent_ix = 77 WHERE ix = 3"))
    found = check_store(store)
    assert found["visits_add_up"] and found["values_add_up"] and found["connected"]


def test_the_log_of_simulations_rebuilds_every_n_and_w(store: Store) -> None:
    search_id = recorded(store)
    with store.session() as session:
        nodes = session.scalars(
            select(NodeRow).where(NodeRow.search_id == search_id).order_by(NodeRow.ix)
        ).all()
        log = session.scalars(
            select(SimulationRow)
            .where(SimulationRow.search_id == search_id)
            .order_by(SimulationRow.seq)
        ).all()
    visits, sums = rebuild(
        [n.parent_ix for n in nodes], [Simulation(s.leaf_ix, s.value, s.num_tokens) for s in log]
    )
    assert visits == [n.visits for n in nodes]
    assert sums == [pytest.approx(n.value_sum, abs=1e-12) for n in nodes]
    assert [s.seq for s in log] == list(range(12))
    early = read_tree(store, search_id, after=5)
    assert early[0]["n"] == 5
    assert early[0]["q"] == pytest.approx(sum(s.value for s in log[:5]) / 5)
    assert read_tree(store, search_id, after=99) == read_tree(store, search_id)
    assert [s.num_tokens for s in log] == sorted(s.num_tokens for s in log)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        ("DELETE FROM simulations WHERE seq = 3", "log_is_whole"),
        ("UPDATE simulations SET value = value + 1 WHERE seq = 0", "log_rebuilds_the_root"),
        ("UPDATE simulations SET leaf_ix = 1 WHERE seq = 0", "evaluated_once"),
        (
            "INSERT INTO search_journals SELECT id, 0, '{}' FROM searches WHERE status = 'done'",
            "no_journal_after_the_end",
        ),
    ],
)
def test_the_checker_sees_a_damaged_log(store: Store, damage: str, rule: str) -> None:
    recorded(store)
    assert not any(check_store(store).values())
    with store.session() as session:
        session.execute(text(damage))
    assert check_store(store)[rule] > 0


def test_a_row_without_its_search_is_refused_or_found(store: Store) -> None:
    recorded(store)
    stray = text("UPDATE nodes SET search_id = 999 WHERE ix = 3")
    if store.engine.dialect.name == "sqlite":
        with pytest.raises(StoreError, match="FOREIGN KEY"), store.session() as session:
            session.execute(stray)
        return
    with store.session() as session:
        session.execute(stray)
    assert check_store(store)["rows_have_their_search"] == 1


def test_a_journal_reads_back_in_order_and_ends_with_its_search(store: Store) -> None:
    _, _, (search_id, other) = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, [search_id, other], fence=1)
        add_journal(session, [(search_id, 0, {"ix": 0}), (other, 0, {"ix": 7})])
        add_journal(session, [(search_id, 1, {"ix": 1, "value": 0.1 + 0.2})])
    with store.session() as session:
        journals = read_journals(session, [search_id, other])
    assert journals == {
        search_id: [{"ix": 0}, {"ix": 1, "value": 0.1 + 0.2}],
        other: [{"ix": 7}],
    }
    record(store, search_id, 1, finished_search())
    with store.session() as session:
        assert set(read_journals(session, [search_id, other])) == {other}


def test_a_stored_tree_reads_back_as_it_was(store: Store) -> None:
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    search = finished_search()
    record(store, ids[0], 1, search)
    nodes = read_tree(store, ids[0])
    assert [n["ix"] for n in nodes] == list(range(len(nodes)))
    by_ix = {n["ix"]: n for n in nodes}
    for node in search.nodes[1:]:
        assert node.parent_edge is not None
        stored = by_ix[node.ix]
        assert stored["n"] == node.parent_edge.visits
        assert stored["q"] == pytest.approx(node.parent_edge.q)
        assert stored["p"] == pytest.approx(node.parent_edge.prior)
        assert stored["text"] == node.state.options[-1].text
    line, here = [], search.root
    while taken := [e for e in here.edges if e.visits]:
        best = max(taken, key=lambda e: (e.visits, -(e.child.ix if e.child else 0)))
        assert best.child is not None
        here = best.child
        line.append(here.ix)
    assert [n["ix"] for n in nodes if n["principal"]] == sorted(line)
    with pytest.raises(NotFoundError):
        read_tree(store, 10_000)


def test_siblings_differ_from_the_most_visited_one_by_words(store: Store) -> None:
    search_id = recorded(store)
    found = read_siblings(store, search_id, 0)
    assert [n["n"] for n in found] == sorted((n["n"] for n in found), reverse=True)
    first, *others = found
    assert first["difference"] == [("same", first["text"])]
    for other in others:
        kinds = ("same", "added")
        assert "".join(w for kind, w in other["difference"] if kind in kinds) == other["text"]
        kinds = ("same", "missing")
        assert "".join(w for kind, w in other["difference"] if kind in kinds) == first["text"]
    with pytest.raises(NotFoundError, match="has no options"):
        read_siblings(store, search_id, 10_000)


def test_a_dataset_is_frozen_once_and_reproduces_the_tokens(store: Store) -> None:
    _, round_id, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    search = finished_search()
    record(store, ids[0], 1, search)
    with store.session() as session:
        row = session.get_one(Round, round_id)
        dataset = freeze_dataset(session, row, SelectionRule(min_outcome=0.5))
        found = read_dataset(session, dataset.id)
    chosen = search.result().chosen
    assert chosen is not None
    assert [t.prompt_tokens + t.tokens for t in found] == [chosen.rollout.state.tokens]
    with store.session() as session:
        again = dataset_of(session, round_id)
        assert again is not None and again.sha == dataset.sha
        strict = SelectionRule(min_outcome=1.1)
        other = [t for t in read_dataset(session, dataset.id) if strict.min_outcome <= 1]
        assert other == []


def test_searches_can_be_asked_for_what_search_gained(store: Store) -> None:
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    record(store, ids[0], 1, finished_search())
    rows = list_searches(store, "r", None, False, False, 10)
    assert rows[0]["answer"] == "31" and rows[0]["correct"] is True
    assert rows[1]["status"] == "running"


def test_one_process_works_on_a_run_at_a_time(store: Store) -> None:
    run_id, _, _ = new_round(store)
    first = RunLease(store, run_id)
    with store.session() as session:
        session.execute(update(Run).values(owner="elsewhere 17 99"))
    with pytest.raises(BusyError, match="process 17 on elsewhere"):
        RunLease(store, run_id)
    with store.session() as session:
        session.execute(update(Run).values(lease_until_ts=0))
    second = RunLease(store, run_id)
    assert second.fence == first.fence + 1
    with pytest.raises(BusyError):
        first.renew()
    second.renew()
    second.release()


def test_a_dead_holder_on_this_host_is_replaced_at_once(store: Store) -> None:
    import socket

    run_id, _, _ = new_round(store)
    RunLease(store, run_id)
    with store.session() as session:
        session.execute(update(Run).values(owner=f"{socket.gethostname()} 999999 1"))
    assert RunLease(store, run_id).fence == 2


@pytest.mark.parametrize("hours", [1, -1, 10 * 8766, -10 * 8766])
def test_a_jump_of_the_clock_takes_no_run_from_a_process_that_lives(
    store: Store, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    run_id, _, _ = new_round(store)
    code = (
        "import sys, time\n"
        "from store.database import open_store\n"
        "from store.leases import RunLease\n"
        "RunLease(open_store(sys.argv[1]), int(sys.argv[2]))\n"
        "print('held', flush=True)\n"
        "time.sleep(99)\n"
    )
    command_line = [sys.executable, "-c", code, store.url, str(run_id)]
    holder = subprocess.Popen(command_line, cwd=ROOT, stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    real = leases.clock_us
    monkeypatch.setattr(leases, "clock_us", lambda s: real(s) + hours * 3600 * 1_000_000)
    try:
        with pytest.raises(BusyError, match=r"lease for another [1-6]?\d s"):
            RunLease(store, run_id)
    finally:
        holder.kill()
        holder.wait()
    second = RunLease(store, run_id)
    monkeypatch.setattr(leases, "clock_us", real)
    second.renew()


def test_searches_cut_off_by_a_full_disk_are_whole_or_not_there(tmp_path: Path) -> None:
    """A database that may grow by n pages more: what does not fit leaves nothing behind."""
    template = open_store(f"sqlite:///{tmp_path}/template.db")
    _, _, ids = new_round(template, tuple(str(n) for n in range(20, 50)))
    with template.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
    template.close()
    search = finished_search()
    ended = []
    for more in range(0, 24, 2):
        path = tmp_path / f"{more}.db"
        shutil.copyfile(tmp_path / "template.db", path)
        store = open_store(f"sqlite:///{path}")
        bound_pages(store, pages + more)
        with pytest.raises(ResourceError, match="full") as caught:
            for search_id in ids:
                record(store, search_id, 1, search)
        assert "free some space" in caught.value.fix
        store.close()
        again = open_store(f"sqlite:///{path}")
        assert not any(check_store(again).values())
        with again.session() as session:
            left = session.scalars(select(SearchRow.id).where(SearchRow.status == "running")).all()
            assert session.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
        ended.append(len(ids) - len(left))
        assert all(record(again, search_id, 1, search) for search_id in left)
        assert not any(check_store(again).values())
        again.close()
    assert ended == sorted(ended) and ended[0] < ended[-1]


def bound_pages(store: Store, most: int) -> None:
    """Let a SQLite store grow to so many pages and no further."""
    store.engine.dispose()

    @event.listens_for(store.engine, "connect")
    def bound(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most}")


HOSTILE = [
    "DELETE FROM runs",
    "DROP TABLE runs",
    "UPDATE runs SET name = 'x'",
    "INSERT INTO runs (name) VALUES ('x')",
    "SELECT 1; DELETE FROM runs",
    "COMMIT; DROP TABLE runs",
    "ATTACH DATABASE '/tmp/x.db' AS x",
    "PRAGMA writable_schema = 1",
    "VACUUM INTO '/tmp/x.db'",
    "COPY runs TO '/tmp/x'",
    "CREATE TABLE x (a INT)",
    "SELECT load_extension('/tmp/x.so')",
    "WITH x AS (DELETE FROM runs RETURNING *) SELECT * FROM x",
    "",
    "nonsense",
    "SELECT 'a\0b'",
    "SET TRANSACTION READ WRITE; DELETE FROM runs",
]


@pytest.mark.parametrize("statement", HOSTILE)
def test_the_sql_console_only_reads(store: Store, statement: str) -> None:
    new_round(store)
    with pytest.raises(UsageError) as error:
        ask_sql(store, statement)
    assert error.value.fix
    assert count(store, Run) == 1
    assert not Path("/tmp/x.db").exists()


def test_the_sql_console_bounds_time_and_rows(store: Store) -> None:
    many_rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)"
    endless = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    )
    with pytest.raises(UsageError, match="longer than"):
        ask_sql(store, endless, timeout_s=0.2)
    if sqlite_path(store.url) is not None:  # one call of a function looks at no clock
        with pytest.raises(UsageError, match="longer than"):
            ask_sql(store, "SELECT instr(hex(zeroblob(4900000)),hex(zeroblob(2400000))||'1')")
        with pytest.raises(UsageError, match="over 64,000,000"):
            ask_sql(store, f"{many_rows} SELECT hex(zeroblob(4000000)) FROM n", timeout_s=30)
    else:
        with pytest.raises(UsageError, match="over 64,000,000"):
            ask_sql(store, f"{many_rows} SELECT repeat('x', 8000000) FROM n", timeout_s=30)
    many = endless.replace("FROM n)", "FROM n WHERE i < 50)").replace("count(*)", "i")
    answer = ask_sql(store, many, max_rows=10)
    assert (len(answer.rows), answer.is_cut, answer.columns) == (10, True, ["i"])


def test_a_store_of_a_newer_version_is_refused(url: str) -> None:
    store = open_store(url)
    with store.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    with pytest.raises(StoreError, match="newer"):
        open_store(url)


def test_an_unreadable_url_names_the_forms_that_work() -> None:
    for bad in ("nonsense", "mysql://x/y", "sqlite3:/x"):
        with pytest.raises(UsageError) as error:
            open_store(bad)
        assert "sqlite:///PATH" in error.value.fix


def test_a_store_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_store(f"sqlite:///{tmp_path}/none.db", must_exist=True)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be read as a header" * 50)
    with pytest.raises(StoreError):
        open_store(f"sqlite:///{tmp_path}/x.db")


def test_a_full_disk_ends_with_a_message_and_keeps_what_was_committed(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/full.db")
    _, _, ids = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, ids, fence=1)
    record(store, ids[0], 1, finished_search())
    nodes = count(store, NodeRow)
    with pytest.raises(ResourceError, match="full"), store.session() as session:
        pages = session.execute(text("PRAGMA page_count")).scalar_one()
        assert session.execute(text(f"PRAGMA max_page_count = {pages}")).scalar() == pages
        session.execute(
            text(
                "INSERT INTO events (ts, run_id, kind, payload) "
                "SELECT 1, 1, hex(zeroblob(1000000)), '{}'"
            )
        )
    store.close()
    again = open_store(f"sqlite:///{tmp_path}/full.db")
    assert count(again, NodeRow) == nodes
    with sqlite3.connect(tmp_path / "full.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
