"""The dictionary explains all that a store may hold."""

import re
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest
from sqlalchemy import JSON, CheckConstraint, inspect

from search.budget import StopReason
from search.state import Stop
from store import json_keys, states
from store.database import Store
from store.dictionary import (
    WIDTH,
    dictionary,
    doc_of,
    docs_of,
    keys_of,
    records_of,
    tables,
    values_of,
    views,
)
from store.schema import Base

ROOT = Path(__file__).parent.parent.parent
CHECKED = {
    f"{table.name}.{constraint.name.removeprefix(f'ck_{table.name}_')}": str(constraint.sqltext)
    for table in Base.metadata.tables.values()
    for constraint in table.constraints
    if isinstance(constraint, CheckConstraint) and isinstance(constraint.name, str)
}
JSON_COLUMNS = [
    f"{table.name}.{column.name}"
    for table in Base.metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, JSON)
]


def test_the_document_is_what_the_command_prints() -> None:
    assert (ROOT / "docs/dictionary.md").read_text() == dictionary()


def test_no_line_is_wider_than_a_screen() -> None:
    assert max(map(len, dictionary().splitlines())) <= WIDTH


def test_no_column_of_any_table_or_view_is_bare() -> None:
    everything = tables() | views()
    assert set(tables()) == set(Base.metadata.tables)
    assert [name for name, (says, _) in everything.items() if not says.endswith(".")] == []
    bare = [f.of for _, fields in everything.values() for f in fields if not f.means.endswith(".")]
    assert bare == []
    printed = dictionary()
    for name, (says, fields) in everything.items():
        section = printed.partition(f"\n## {name}")[2].partition("\n## ")[0]
        assert says[:40] in section
        assert [f.name for f in fields if f"- `{f.name}` (" not in section] == []


def test_the_views_are_those_of_the_database_column_by_column(store: Store) -> None:
    database = inspect(store.engine)
    assert sorted(database.get_view_names()) == list(views())
    for view, (_, fields) in views().items():
        assert [c["name"] for c in database.get_columns(view)] == [f.name for f in fields]


def test_what_a_view_hands_on_means_what_it_means_in_its_table() -> None:
    stage = next(f for f in views()["readable_rounds"][1] if f.name == "stage")
    assert stage.of == "rounds.stage"
    assert stage.means == "`rounds.stage`. What it is doing, or how it ended."


def test_every_value_of_every_enum_is_listed_with_its_line() -> None:
    enums = [e for e in vars(states).values() if isinstance(e, type) and issubclass(e, StrEnum)]
    printed = " ".join(dictionary().split())
    for enum in (e for e in enums if e is not StrEnum):
        assert doc_of(enum)
        assert enum in states.COLUMNS.values()
        for member in enum:
            line = docs_of(enum)[member.name]
            assert line.endswith(".")
            assert f"- `{member.value}`: {line}" in printed
    for column in states.COLUMNS:
        assert all(line.endswith(".") for line in values_of(column).values())
        assert f"Values of `{column.partition('.')[2]}`:" in printed


def test_every_word_of_the_search_is_explained() -> None:
    assert set(states.OPTION_STOPS) == set(get_args(Stop))
    assert set(states.SEARCH_STOPS) == set(get_args(StopReason)) - {""}


@pytest.mark.parametrize("column", sorted(CHECKED))
def test_the_database_allows_exactly_the_values_of_the_enum(store: Store, column: str) -> None:
    table, _, name = column.partition(".")
    rules = inspect(store.engine).get_check_constraints(table)
    (rule,) = (str(r["sqltext"]) for r in rules if r["name"] == f"ck_{table}_{name}")
    if store.engine.dialect.name == "sqlite":
        assert rule == CHECKED[column]
    assert re.findall(r"'(\w+)'", rule) == list(values_of(column))


def test_the_five_checked_columns_are_those_of_the_migrations() -> None:
    assert CHECKED == {
        "rounds.stage": "stage IN ('imagining', 'searching', 'selecting', 'training', "
        "'evaluating', 'promoted', 'kept', 'failed')",
        "searches.status": "status IN ('pending', 'running', 'done', 'failed')",
        "checkpoints.role": "role IN ('policy', 'drafter', 'value', 'process', 'outcome', "
        "'checker')",
        "arena_votes.choice": "choice IN ('left', 'right', 'tie', 'bad')",
        "checkpoints.status": "status IN ('ready', 'rejected', 'quarantined')",
    }


@pytest.mark.parametrize("column", JSON_COLUMNS)
def test_every_key_of_a_json_column_is_explained(column: str) -> None:
    records = records_of(column)
    assert records
    for record in records.values():
        keys = keys_of(record)
        assert keys and [k.name for k in keys if not k.means.endswith(".")] == []
        assert len({k.path for k in keys}) == len(keys)


def test_every_json_column_is_in_one_table_of_keys() -> None:
    assert sorted(JSON_COLUMNS) == sorted([*json_keys.COLUMNS, *json_keys.COLUMNS_BY])
    for column, (decides, records) in json_keys.COLUMNS_BY.items():
        assert list(records) == list(values_of(f"{column.partition('.')[0]}.{decides}"))


def test_keys_are_named_by_the_way_to_them() -> None:
    steps = {key.name: key.kind for key in keys_of(records_of("trajectories.steps")[""])}
    assert steps == {
        "steps": "list of objects",
        "steps[].text": "text",
        "steps[].tokens": "integer",
        "steps[].visit_share": "number or null",
        "steps[].q": "number or null",
    }
    costs = [key.name for key in keys_of(records_of("speculation.costs")[""])]
    assert "<rows>.draft.<source>" in costs and costs[-1] == "<rows>.draft_1000_columns.<source>"
    imagined = {k.name: k.kind for k in keys_of(records_of("events.payload")["imagined"])}
    assert imagined["yield"] == "number" and imagined["made.<operator>"] == "integer"
    unsound = {k.name: k.kind for k in keys_of(records_of("rounds.search_config")[""])}["unsound"]
    assert unsound == "one of prune, discount, keep"


def test_a_record_is_spelled_out_once_and_named_elsewhere() -> None:
    printed = " ".join(dictionary().split())
    assert "JSON keys of `candidates`: those of `rounds.models`." in printed
    assert "where `kind` is `round-promoted` or `round-kept`: those of `rounds.verdict`." in printed
    assert "Its keys are those of `rounds.search_config`." in printed
    assert printed.count("- `first_play_reduction` (") == 1
