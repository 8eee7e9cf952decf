"""The dictionary explains all that a store may hold."""

import re
from typing import get_args

import pytest
from sqlalchemy import CheckConstraint, inspect

from search.budget import StopReason
from search.state import Stop
from store import states
from store.database import Store
from store.schema import Base

CHECKED = {
    f"{table.name}.{constraint.name.removeprefix(f'ck_{table.name}_')}": str(constraint.sqltext)
    for table in Base.metadata.tables.values()
    for constraint in table.constraints
    if isinstance(constraint, CheckConstraint) and isinstance(constraint.name, str)
}


@pytest.mark.parametrize("column", CHECKED)
def test_the_database_allows_exactly_the_values_of_the_enum(store: Store, column: str) -> None:
    table, _, name = column.partition(".")
    values = states.COLUMNS[column]
    assert isinstance(values, type)
    rules = inspect(store.engine).get_check_constraints(table)
    (rule,) = (str(r["sqltext"]) for r in rules if r["name"] == f"ck_{table}_{name}")
    if store.engine.dialect.name == "sqlite":
        assert rule == CHECKED[column]
    assert re.findall(r"'(\w+)'", rule) == [v.value for v in values]


def test_the_four_checked_columns_are_those_of_the_first_migration() -> None:
    assert CHECKED == {
        "rounds.stage": "stage IN ('imagining', 'searching', 'selecting', 'training', "
        "'evaluating', 'promoted', 'kept', 'failed')",
        "searches.status": "status IN ('pending', 'running', 'done', 'failed')",
        "checkpoints.role": "role IN ('policy', 'drafter', 'value', 'process', 'outcome')",
        "checkpoints.status": "status IN ('ready', 'rejected', 'quarantined')",
    }


def test_every_word_of_the_search_is_explained() -> None:
    assert set(states.OPTION_STOPS) == set(get_args(Stop))
    assert set(states.SEARCH_STOPS) == set(get_args(StopReason)) - {""}
