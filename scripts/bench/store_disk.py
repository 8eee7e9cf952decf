"""S1: disks that fill up while searches are recorded, SQLite's and a server's."""

import os
import random
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

from sqlalchemy import event, select, text

from scripts.bench.databases import Databases
from scripts.bench.report import Row, counted, missing
from scripts.bench.store_kills import SEED
from scripts.bench.store_world import finished, planned, record
from search.errors import ResourceError, StoreAwayError, StoreError
from store.address import sqlite_path
from store.check import check_store
from store.database import Store, open_store
from store.schema import SearchRow

SERVER_MIB = 1000
"""Of the server's file system: room for all that is recorded, and for its log."""


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
        counted("s1_corrupt_sqlite", corrupt, "files", num, "integrity_check, full at n pages"),
        counted("s1_unclear_errors_sqlite", unclear, "errors", num, "naming path and way out"),
        counted("s1_broken_sqlite", broken, "violations", num, "and after the rest is recorded"),
        counted("s1_lost_sqlite", lost, "searches", num, "40 searches each"),
    ]


def _bound(store: Store, most: int) -> None:
    store.engine.dispose()

    @event.listens_for(store.engine, "connect")
    def bound(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most}")


def full_server(num: int, folder: Path) -> list[Row]:
    """PostgreSQL on a small file system of its own, which fills up again and again.

    What is left for it differs from time to time, so that tables, indexes and its log are what no
    longer fits; then the space is given back, and the rest is recorded.
    """
    small = folder / "small"
    small.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={SERVER_MIB}m,mode=755", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        return [missing("s1_lost_postgresql", "mounting a small file system needs root")]
    databases = Databases("postgresql", small)
    try:
        return _filled_again_and_again(databases, small, num)
    finally:
        databases.close()
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def _filled_again_and_again(databases: Databases, small: Path, num: int) -> list[Row]:
    url, search, ballast = databases.new("small"), finished(), small / "ballast"
    store = open_store(url)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Without segments kept in stock the server's log, too, finds no room.
        connection.execute(text("ALTER SYSTEM SET wal_recycle = off"))
        connection.execute(text("SELECT pg_reload_conf()"))
    full = away = unclear = broken = lost = 0
    rng = random.Random(SEED)
    for turn in range(num):
        ids = planned(store, 100, name=f"turn {turn}")
        free = os.statvfs(small)
        with ballast.open("wb") as file:
            size = free.f_bavail * free.f_frsize - rng.randrange(16 * 2**20)
            os.posix_fallocate(file.fileno(), 0, size)
        ended: list[int] = []
        try:
            for i in ids:
                if record(store, i, search):
                    ended.append(i)
        except ResourceError as error:
            full += 1
            unclear += "full" not in error.message or "free" not in error.fix
        except StoreAwayError:
            away += 1
        except StoreError as error:
            unclear += 1
            print(f"unclear: {error.message}"[:200])
        ballast.unlink()
        _answering(databases, url)
        with store.session() as session:
            left = session.scalars(
                select(SearchRow.id).where(SearchRow.id.in_(ids), SearchRow.status == "running")
            ).all()
        lost += sum(not record(store, i, search) for i in left)
        lost += len(set(ended) & set(left))
        broken += sum(check_store(store).values())
    store.close()
    told = f"full: {full} refused, {away} server down; 100 searches each"
    return [
        counted("s1_unclear_errors_postgresql", unclear, "errors", num, told),
        counted("s1_broken_postgresql", broken, "violations", num, told),
        counted("s1_lost_postgresql", lost, "searches", num, told),
    ]


def _answering(databases: Databases, url: str) -> None:
    """Wait until the server has recovered, or start it again."""
    for _ in range(60):
        try:
            databases.start()
            open_store(url).close()
            return
        except Exception:  # whatever a server says that is not there yet
            time.sleep(0.5)
    raise TimeoutError("the server did not come back")
