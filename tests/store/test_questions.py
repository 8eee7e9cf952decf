"""Questions by name: each is answered on both databases, by binding, and changes nothing."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text

from search.errors import NotFoundError, RatchetError, UsageError
from store import console
from store.address import sqlite_path
from store.check import check_store
from store.database import Store
from store.inspection import ask_question, ask_sql
from store.questions import QUESTIONS
from store.schema import Base, CheckpointRow, NodeRow, SearchRow
from tests.store.test_store import count, recorded


def given(search_id: int = 1) -> dict[str, object]:
    return {"run": "r", "round": 1, "search": search_id, "checkpoint": "policy-1"}


@pytest.mark.parametrize("name", [q.name for q in QUESTIONS])
def test_every_question_is_one_select_that_both_databases_answer(store: Store, name: str) -> None:
    search_id = recorded(store)
    with store.session() as session:
        session.add(
            CheckpointRow(
                role="policy",
                version="policy-1",
                path="p",
                status="ready",
                num_bytes=1,
                report={},
                created_ts=0,
            )
        )
    answer = ask_question(store, name, given(search_id))
    assert len(set(answer.columns)) == len(answer.columns) > 2
    assert not any(check_store(store).values())


def test_the_principal_variation_follows_the_visits(store: Store) -> None:
    search_id = recorded(store)
    rows = ask_question(store, "principal_variation", given(search_id)).rows
    with store.session() as session:
        nodes = {
            n.ix: n for n in session.scalars(select(NodeRow).where(NodeRow.search_id == search_id))
        }
    here = 0
    for row in rows[1:]:
        children = [n for n in nodes.values() if n.parent_ix == here and n.visits]
        most = max(children, key=lambda n: (n.visits, -n.ix))
        assert row[:3] == (most.depth, most.ix, most.visits)
        assert row[3] == pytest.approx(most.visits / nodes[here].visits)
        here = most.ix
    assert len(rows) > 1 and not [n for n in nodes.values() if n.parent_ix == here and n.visits]


def test_progress_and_cost_add_up(store: Store) -> None:
    recorded(store)
    rows = ask_question(store, "progress", given()).rows
    assert {row[0]: row[1] for row in rows} == {"done": 1, "pending": 1}
    (cost,) = ask_question(store, "cost", given()).rows
    with store.session() as session:
        tokens = session.scalar(select(SearchRow.num_tokens).where(SearchRow.status == "done"))
    assert cost[0] == 1 and cost[2] == tokens


def test_the_critics_auc_is_that_of_the_ranks(store: Store) -> None:
    """Scores .9 (right), .8 (wrong), .2 (wrong): AUC 1; turned round: 0."""
    search_id = recorded(store)
    with store.session() as session:
        session.execute(text("DELETE FROM critic_scores"))
        row = session.get_one(SearchRow, search_id)
        others = []
        for n in range(2):
            problem = session.execute(
                text(
                    "INSERT INTO problems (task, key, text, origin, family) "
                    "VALUES ('t', :key, 'x', '', '') RETURNING id"
                ),
                {"key": f"k{n}"},
            ).scalar_one()
            other = SearchRow(
                round_id=row.round_id,
                problem_id=problem,
                position=5 + n,
                seed=0,
                status="done",
                is_correct=False,
                is_trimmed=True,
            )
            session.add(other)
            session.flush()
            others.append(other.id)
        row.is_correct = True
        for search, score in zip([search_id, *others], (0.9, 0.8, 0.2), strict=True):
            session.execute(
                text(
                    "INSERT INTO critic_scores "
                    "(search_id, ix, critic, seq, version, score, reason)"
                    " VALUES (:s, 0, 'outcome', 0, 'v', :x, '')"
                ),
                {"s": search, "x": score},
            )
    (found,) = ask_question(store, "critics", given()).rows
    assert found[0] == "outcome" and float(found[5]) == 1.0
    assert float(found[6]) == pytest.approx((0.01 + 0.64 + 0.04) / 3)
    with store.session() as session:
        session.execute(text("UPDATE critic_scores SET score = 1 - score"))
    assert float(ask_question(store, "critics", given()).rows[0][5]) == 0.0


def test_what_cannot_be_asked_names_the_way_out(store: Store) -> None:
    with pytest.raises(UsageError, match="no question 'progres'") as error:
        ask_question(store, "progres", {})
    assert "did you mean progress?" in error.value.fix
    with pytest.raises(UsageError, match="needs a search"):
        ask_question(store, "tree", {"run": "r"})
    with pytest.raises(NotFoundError, match="has no round"):
        ask_question(store, "cost", {"run": "nobody"})
    recorded(store)
    for parameter, value in (("run", "s"), ("round", 2), ("search", 99), ("checkpoint", "x")):
        name = {"search": "tree", "checkpoint": "lineage"}.get(parameter, "cost")
        with pytest.raises(NotFoundError, match=str(value)) as unknown:
            ask_question(store, name, given() | {parameter: value})
        assert unknown.value.fix


def hostile(num: int) -> Iterator[str]:
    """Strings that break out of quotes, comments and statements where anything can."""
    rng = random.Random(7)
    openings = [
        "'",
        '"',
        "`",
        "')",
        '")',
        "';",
        "\\'",
        "%' ",
        "0) ",
        "1; ",
        "",
        "\x00",
        "\u2019",
        "$$",
        "$1",
        ":run",
        "%s",
        "%(run)s",
        "?1",
        "{0}",
        "-1 ",
    ]
    bodies = [
        "DROP TABLE searches",
        "DELETE FROM runs",
        "UPDATE runs SET fence = 9",
        "INSERT INTO events (ts, run_id, kind, payload) VALUES (0, 1, 'x', '{}')",
        "ATTACH DATABASE '/tmp/injected.db' AS x",
        "VACUUM INTO '/tmp/injected.db'",
        "SELECT load_extension('/tmp/x')",
        "PRAGMA writable_schema = ON",
        "COMMIT",
        "COPY runs TO '/tmp/injected.db'",
        "SELECT pg_sleep(30)",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT lo_import('/etc/passwd')",
        "CREATE TABLE pwned (x int)",
        "UNION SELECT name, 1 FROM runs",
        "OR 1 = 1",
        "ALTER TABLE runs ADD x int",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SELECT writefile('/tmp/injected.db', 'x')",
        "SELECT randomblob(1000000000)",
    ]
    closings = ["", " --", " /*", "; --", "#", " OR '1'='1", "\n;", ";;", " -- -", "'"]
    for _ in range(num):
        yield rng.choice(openings) + rng.choice(bodies) + rng.choice(closings)


INJECTED = Path("/tmp/injected.db")


def everything(store: Store) -> dict[str, int]:
    return {m.local_table.name: count(store, m.class_) for m in Base.registry.mappers}  # type: ignore[attr-defined]


def test_hostile_text_in_any_parameter_or_in_the_console_writes_nothing(store: Store) -> None:
    search_id = recorded(store)
    before = everything(store)
    tables = set(inspect(store.engine).get_table_names())
    num = 400
    for i, string in enumerate(hostile(num)):
        question = QUESTIONS[i % len(QUESTIONS)]
        for parameter in question.parameters:
            asked = given(search_id) | {parameter: string}
            try:
                ask_question(store, question.name, asked, 10, 0.5)
            except RatchetError as error:
                assert error.fix
        path = sqlite_path(store.url)
        if path is not None and i % 8:  # what the console's own process does, in this one
            console.answer(
                {
                    "uri": f"file:{path}?mode=ro",
                    "statement": string,
                    "bound": {},
                    "max_rows": 10,
                    "timeout_s": 0.2,
                }
            )
            continue
        try:
            ask_sql(store, string, 10, 0.2)
        except RatchetError as error:
            assert error.fix
    assert everything(store) == before
    assert set(inspect(store.engine).get_table_names()) == tables
    assert not INJECTED.exists() and not any(check_store(store).values())


def test_the_views_have_rows(store: Store) -> None:
    recorded(store)
    views = inspect(store.engine).get_view_names()
    assert len(views) == 4
    assert all(ask_sql(store, f"SELECT * FROM {view}").rows for view in views)
