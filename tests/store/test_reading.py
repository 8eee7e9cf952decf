"""Reading reads: no byte of a database or of its folder changes, and no secret is shown."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from search.errors import (
    NotFoundError,
    RatchetError,
    ResourceError,
    StoreAwayError,
    StoreError,
    UsageError,
)
from store.address import check_url
from store.database import migrate, open_store, read_store
from store.inspection import ask_sql
from store.masking import masked
from store.runs import create_run

SECRET = "c4n4ry-p4ss"


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


def made(path: Path) -> str:
    url = f"sqlite:///{path}"
    store = open_store(url)
    with store.session() as session:
        create_run(session, "r", task="t", config={}, config_sha="c", code_version="v", seed=0)
    store.close()
    return url


def test_reading_a_store_changes_no_byte_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    url = made(folder / "s.db")
    (folder / "s.db.lock").unlink(missing_ok=True)
    before = files(folder)
    store = read_store(url)
    with store.session() as session:
        assert session.scalar(text("SELECT name FROM runs")) == "r"
    assert ask_sql(store, "SELECT name FROM runs").rows == [("r",)]
    with pytest.raises((StoreError, ResourceError)), store.session() as session:
        session.execute(text("DELETE FROM runs"))
    store.close()
    assert files(folder) == before


def test_what_a_killed_writer_left_in_its_log_is_read(tmp_path: Path) -> None:
    url = made(tmp_path / "s.db")
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1]); c.execute(\"UPDATE runs SET name = 'late'\")\n"
        "c.commit(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "s.db"], check=False)
    before = files(tmp_path)
    assert before["s.db-wal"]
    store = read_store(url)
    assert ask_sql(store, "SELECT name FROM runs").rows == [("late",)]
    store.close()
    after = files(tmp_path)
    # SQLite's index of the log is renewed; database and log stay.
    assert {k: v for k, v in after.items() if k != "s.db-shm"} == {
        k: v for k, v in before.items() if k != "s.db-shm"
    }


def test_a_store_that_is_written_to_while_it_is_read_says_so(tmp_path: Path) -> None:
    url = made(tmp_path / "s.db")
    store = read_store(url)
    with pytest.raises(StoreAwayError, match="was written to"), store.session() as session:
        session.execute(text("SELECT 1"))
        other = open_store(url)
        with other.session() as writing:
            writing.execute(text("UPDATE runs SET name = 'other'"))
        other.close()
    store.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a read-only disk needs root")
def test_a_store_on_a_read_only_disk_is_read(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        url = made(disk / "s.db")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        store = read_store(url)
        assert ask_sql(store, "SELECT name FROM runs").rows == [("r",)]
        store.close()
        with pytest.raises(RatchetError) as refused:
            open_store(f"sqlite:///{disk}/new.db")
        assert "new.db" in refused.value.message
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_somebody_elses_is_refused_and_stays_as_it_is(
    tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "foreign.db"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE cakes (name TEXT)")
    connection.commit()
    connection.close()
    before = files(tmp_path)
    for opens in (read_store, open_store, migrate):
        with pytest.raises(StoreError, match="not one of Ratchet"):
            opens(f"sqlite:///{path}")
    assert files(tmp_path) == before


def test_a_file_that_is_no_database_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    before = files(tmp_path)
    for opens in (read_store, open_store, migrate):
        with pytest.raises(StoreError):
            opens(f"sqlite:///{path}")
    assert files(tmp_path) == before
    with pytest.raises(NotFoundError):
        read_store(f"sqlite:///{tmp_path}/none.db")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///s.db?mode=rw&uri=true", "the key 'mode'"),
        ("sqlite+aiosqlite:///s.db", "sqlite+aiosqlite"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg"),
        (f"postgresql://u:{SECRET}@h/d?password={SECRET}", "the key 'password'"),
        (f"postgres//u:{SECRET}@h/d", "cannot be read"),
        (f"oracle://u:{SECRET}@h/d", "not supported"),
        ("sqlite://", "names no file"),
        ("", "cannot be read"),
    ],
)
def test_a_url_that_no_store_can_have_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_url(url)
    assert words in refused.value.message and SECRET not in refused.value.message
    assert refused.value.fix


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"postgresql+psycopg://u:{SECRET}@h:5432/d", "postgresql+psycopg://u:***@h:5432/d"),
        (f"at redis://:{SECRET}@h and then", "at redis://:***@h and then"),
        (f"https://x/?token={SECRET}&a=1", "https://x/?token=***&a=1"),
        (f"two a://b:{SECRET}@c,d://e:{SECRET}@f", "two a://b:***@f"),
        ("sqlite:////tmp/a@b.db", "sqlite:////tmp/a@b.db"),
        ("http://host:80/path", "http://host:80/path"),
    ],
)
def test_secrets_are_masked_wherever_they_stand(said: str, shown: str) -> None:
    assert masked(said) == shown


def test_what_the_environment_holds_as_a_secret_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("OTHER_KEY", "1")
    assert masked(f"401 for {SECRET}, 1 try") == "401 for ***, 1 try"
