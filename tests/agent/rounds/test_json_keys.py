"""What a real round writes into JSON columns is in the dictionary, key by key."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, select

from agent.checkpoints.custody import damaged
from agent.config.load import load_config
from agent.evaluation import gate
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.training.methods.dpo import PreferenceReport
from agent.training.methods.dr_po import GradientReport
from agent.training.methods.sft import SftReport
from agent.training.methods.tree_pg import TreeReport
from store import json_keys, recording
from store.database import Store, open_store
from store.dictionary import Key, keys_of, records_of, values_of
from store.schema import Base, CheckpointRow
from store.states import COLUMNS, EventKind
from tests.agent.rounds.small import SMALL, places

pytestmark = pytest.mark.round


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """After a round of the embedded models that kept its journals, one that was given up, and a
    checkpoint that was damaged for a while."""
    folder = tmp_path_factory.mktemp("round")
    config, _ = load_config(SMALL | places(folder) | {"hosting.speculation": "auto"})
    with pytest.MonkeyPatch.context() as patch, Improver(config, Silent()).started() as improver:
        patch.setattr(recording, "drop_journals", lambda session, search_ids: None)
        improver.run_round()
        improver._new_round()
        improver.give_up_open_round()
        drafter = improver.models["drafter"]
        weights = Path(drafter.path) / "model.safetensors"
        whole = weights.read_bytes()
        for content in (whole[:-1], whole):
            weights.write_bytes(content)
            damaged(improver.store, improver.run_id, {"drafter": drafter.version}, print)
    opened = open_store(config.store, must_exist=True)
    yield opened
    opened.close()


def unexplained(value: Any, keys: list[Key], path: tuple[str, ...] = ()) -> set[str]:
    """Ways to keys of a JSON value that no key of the dictionary stands for."""
    if isinstance(value, list):
        return set().union(*(unexplained(v, keys, (*path, "[]")) for v in value), set())
    if not isinstance(value, dict):
        return set()
    found: set[str] = set()
    for name, inner in value.items():
        known = {k.path[-1]: k for k in keys if k.path[:-1] == path}
        key = known.get(name) or next((k for n, k in known.items() if n.startswith("<")), None)
        if key is None:
            found.add(".".join((*path, name)))
        elif key.kind != "anything":
            found |= unexplained(inner, keys, key.path)
    return found


def test_a_key_is_found_out_wherever_it_is() -> None:
    keys = keys_of(json_keys.COLUMNS["trajectories.steps"])
    step = {"text": "1", "tokens": 1, "visit_share": None, "q": 0.5}
    assert unexplained({"steps": [step]}, keys) == set()
    assert unexplained({"steps": [step, step | {"n": 1}], "x": {"y": 1}}, keys) == {
        "steps.[].n",
        "x",
    }
    costs = {"16": {"step": {"1": 0.5}, "draft": {"model": 0.1}, "wait": 2}}
    assert unexplained(costs, keys_of(json_keys.Costs)) == {"<rows>.wait"}
    settings = {"base": "abc", "search": {"whatever": [{"is": "there"}]}}
    assert unexplained(settings, keys_of(json_keys.RunConfig)) == set()


def test_a_round_writes_no_json_key_that_the_dictionary_does_not_explain(store: Store) -> None:
    seen: set[str] = set()
    with store.session() as session:
        for table in Base.metadata.tables.values():
            for row in session.execute(select(table)).mappings():
                for column in (c for c in table.columns if isinstance(c.type, JSON)):
                    name = f"{table.name}.{column.name}"
                    decides = json_keys.COLUMNS_BY.get(name, ("", {}))[0]
                    which = str(row[decides]) if decides else ""
                    if row[column.name]:
                        seen.add(f"{name} {which}".strip())
                        keys = keys_of(records_of(name)[which])
                        assert unexplained(row[column.name], keys) == set(), (name, which)
    reports = {f"checkpoints.report {r}" for r in ("policy", "drafter", "value", "outcome")}
    events = {f"events.payload {kind}" for kind in EventKind} - {
        "events.payload round-promoted",
        "events.payload round-kept",
        "events.payload store-away",
        "events.payload checkpoint-removed",
    }
    assert set(json_keys.COLUMNS) | reports | events <= seen


def test_a_round_writes_no_value_that_the_dictionary_does_not_list(store: Store) -> None:
    with store.session() as session:
        for name in COLUMNS:
            table, _, column = name.partition(".")
            if table == "arena_votes":  # which no round casts
                continue
            found = set(session.scalars(select(Base.metadata.tables[table].c[column])))
            forms = [re.sub("[A-Z]+", ".+", re.escape(value)) for value in values_of(name)]
            written = [value for value in found if value]
            assert written, name
            assert [v for v in written if not re.fullmatch("|".join(forms), v)] == [], name


def test_the_reports_of_all_training_methods_are_explained() -> None:
    written = {"method"}
    for report in (SftReport, PreferenceReport, GradientReport, TreeReport):
        written |= {field.name for field in fields(report)}
    explained = {key.name for key in keys_of(json_keys.PolicyReport)}
    assert explained - written == {"trainer", "lora_rank", "quantization", "weight_bytes"}
    assert written <= explained


def test_the_verdict_is_explained_field_by_field() -> None:
    explained = [key.name for key in keys_of(json_keys.Verdict)]
    assert explained == [field.name for field in fields(gate.Verdict)]


def test_damage_is_written_down_with_its_cause(store: Store) -> None:
    with store.session() as session:
        events = Base.metadata.tables["events"].c
        causes = {
            kind: payload["cause"]
            for kind, payload in session.execute(select(events.kind, events.payload))
            if "cause" in payload
        }
        statuses = session.scalars(select(CheckpointRow.status)).all()
    assert causes[EventKind.CHECKPOINT_QUARANTINED] and not causes[EventKind.CHECKPOINT_RESTORED]
    assert "quarantined" not in statuses
