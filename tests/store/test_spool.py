"""The spool: entries survive on this host and reach the store once, whatever was there before."""

from pathlib import Path

import pytest
from sqlalchemy import update

from search.errors import ResourceError
from search.journal import Entry
from store.database import Store
from store.recording import add_journal, claim, read_journals
from store.schema import Run, SearchRow
from store.spool import Holder, Spool
from tests.store.test_store import finished_search, new_round, record

HOLDER = Holder("r 17", 1)


def entries(search_id: int, places: range) -> list[tuple[int, int, Entry]]:
    return [(search_id, n, {"ix": n, "text": f"answer {n} ☂"}) for n in places]


def test_entries_reach_the_journal_once(store: Store, tmp_path: Path) -> None:
    _, _, (first, second) = new_round(store)
    spool = Spool(tmp_path / "spool.db", HOLDER)
    with store.session() as session:
        add_journal(session, entries(first, range(2)))
    spool.add(entries(first, range(1, 4)))
    spool.add(entries(second, range(2)))
    again = Spool(tmp_path / "spool.db", HOLDER)
    for expected in (4, 0):
        with store.session() as session:
            assert again.drain(session) == expected
        with store.session() as session:
            found = read_journals(session, [first, second])
        assert [e["ix"] for e in found[first]] == [0, 1, 2, 3]
        assert found[second][1]["text"] == "answer 1 ☂"
    again.clear()
    assert not spool.path.exists() and spool.num_bytes == 0


def test_entries_of_an_ended_search_are_left_out(store: Store, tmp_path: Path) -> None:
    _, _, (search_id, _) = new_round(store)
    with store.session() as session:
        session.execute(update(Run).values(fence=1))
        claim(session, [search_id], fence=1)
    spool = Spool(tmp_path / "spool.db", HOLDER)
    spool.add(entries(search_id, range(3)))
    assert record(store, search_id, 1, finished_search())
    with store.session() as session:
        assert spool.drain(session) == 0
        assert session.get_one(SearchRow, search_id).status == "done"


def test_a_spool_is_full_at_its_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db", HOLDER, max_bytes=100)
    assert not spool.is_full
    spool.add(entries(1, range(9)))
    assert spool.is_full


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="folder"):
        Spool(tmp_path / "folder", HOLDER).add(entries(1, range(1)))


@pytest.mark.parametrize(
    ("reader", "is_read"),
    [
        (HOLDER, True),
        (Holder("r 17", 2), True),
        (Holder("r 17", 3), False),
        (Holder("r 18", 1), False),
    ],
)
def test_only_the_holder_and_the_next_one_of_the_run_read_a_spool(
    tmp_path: Path, reader: Holder, is_read: bool
) -> None:
    """Anybody else may have other searches under these numbers, or have taken them further."""
    spool = Spool(tmp_path / "spool.db", HOLDER)
    spool.add(entries(1, range(3)))
    again = Spool(tmp_path / "spool.db", reader)
    aside = again.set_aside()
    assert (aside is None) == is_read and again.path.is_file() == is_read
    assert aside is None or aside.is_file()


def test_a_damaged_spool_is_named_with_the_way_out(store: Store, tmp_path: Path) -> None:
    (tmp_path / "spool.db").write_text("no database, but long enough to be read as a header" * 50)
    spool = Spool(tmp_path / "spool.db", HOLDER)
    with pytest.raises(ResourceError, match=r"spool\.db cannot be used") as caught:
        spool.set_aside()
    assert "move it away" in caught.value.fix
    with store.session() as session, pytest.raises(ResourceError):
        spool.drain(session)
