"""Training sets as files: what rows say, how they are written, and what trimming leaves of them."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text, update

from search.errors import NotFoundError, UsageError
from search.mcts import Search
from search.settings import UnsoundRule
from store.check import check_store
from store.database import Store
from store.datasets import freeze_dataset
from store.export import KINDS, datasets_of, exported, write_rows
from store.inspection import ask_question, read_tree
from store.pairs import freeze_missing_pairs, freeze_pairs, stored_pairs
from store.schema import (
    NodeRow,
    NodeText,
    PreferencePair,
    ProblemRow,
    Round,
    Run,
    SearchRow,
    SimulationRow,
    TrajectoryRow,
)
from store.selection import SelectionRule
from store.trimming import trim
from tests.fakes import Refuted
from tests.store.test_store import count, finished_search, recorded


def frozen(store: Store, search: Search | None = None) -> int:
    """Id of a dataset with what a search found; its round has ended."""
    recorded(store, search)
    rule = SelectionRule(min_outcome=0.0, must_be_sound=False, must_answer=False)
    with store.session() as session:
        row = session.scalars(select(Round)).one()
        dataset = freeze_dataset(session, row, rule)
        row.stage = "promoted"
        session.execute(
            update(SearchRow)
            .where(SearchRow.status == "pending")
            .values(status="failed", num_simulations=0, num_nodes=0)
        )
        assert dataset.num_items
        return dataset.id


def rows_of(store: Store, kind: str, dataset_id: int) -> list[dict[str, object]]:
    with store.session() as session:
        return list(exported(session, kind, [dataset_id], lambda problem: f"{problem}="))


@pytest.mark.parametrize("unsound", ["prune", "discount", "keep"])
def test_what_the_tool_found_wrong_is_stored_and_is_worst_under_every_rule(
    store: Store, unsound: UnsoundRule
) -> None:
    search = finished_search("31", Refuted(), unsound)
    found = sum(bool(e.unsound_reason) for n in search.nodes for e in n.edges)
    dataset_id = frozen(store, search)
    with store.session() as session:
        freeze_pairs(session, dataset_id)
        visits = session.scalars(
            select(NodeRow.visits).where(NodeRow.unsound_reason == "wrong digit")
        ).all()
        pairs = list(stored_pairs(session, dataset_id))
    assert len(visits) == found > 0
    assert (sum(visits) == 0) is (unsound == "prune")
    assert pairs and {p.reason for p in pairs} == {"wrong digit"}
    assert not any(check_store(store).values())


def test_frozen_pairs_are_those_that_training_reads(store: Store) -> None:
    dataset_id = frozen(store)
    with store.session() as session:
        num = freeze_pairs(session, dataset_id)
        read = [(p.margin, p.rejected_text, p.reason) for p in stored_pairs(session, dataset_id)]
        assert num == len(read) > 0
        rows = session.execute(
            select(PreferencePair.margin, NodeText.text, PreferencePair.reason)
            .join(
                NodeText,
                (NodeText.search_id == PreferencePair.search_id)
                & (NodeText.ix == PreferencePair.rejected_ix),
            )
            .order_by(PreferencePair.position)
        ).all()
    assert [tuple(row) for row in rows] == read
    answer = ask_question(store, "pairs", {"run": "r"})
    margins = [dict(zip(answer.columns, row, strict=True))["margin"] for row in answer.rows]
    assert margins == sorted((m for m, _, _ in read), reverse=True)
    assert not any(check_store(store).values())
    trim(store, "r", keep=0, is_real=True)
    assert not any(check_store(store).values())


def test_exports_and_training_read_the_pairs_that_were_frozen_whatever_their_margin(
    store: Store,
) -> None:
    dataset_id = frozen(store)
    with store.session() as session:
        freeze_pairs(session, dataset_id, 0.0)
        margins = [p.margin for p in stored_pairs(session, dataset_id)]
    for margin in (0.0, max(margins), 2.0):
        num = sum(m >= margin for m in margins)
        with store.session() as session:
            session.execute(delete(PreferencePair))
            assert freeze_pairs(session, dataset_id, margin) == num
            assert len(list(stored_pairs(session, dataset_id))) == num
        assert len(rows_of(store, "dpo", dataset_id)) == num
    assert len(margins) > 1


def test_datasets_of_before_get_their_pairs_with_the_margin_of_their_run(store: Store) -> None:
    dataset_id = frozen(store)
    with store.session() as session:
        session.scalars(select(Run)).one().config = {"training": {"min_margin": 2.0}}
    assert freeze_missing_pairs(store) == 0
    with store.session() as session:
        assert freeze_pairs(session, dataset_id)


def test_datasets_of_before_get_their_pairs_once(store: Store) -> None:
    dataset_id = frozen(store)
    num = freeze_missing_pairs(store)
    assert num > 0 and freeze_missing_pairs(store) == 0
    with store.session() as session:
        owners = session.scalars(select(PreferencePair.dataset_id)).all()
    assert owners == [dataset_id] * num


def test_a_pairs_worse_step_is_the_likeliest_refuted_one_else_the_one_with_the_lowest_q(
    store: Store,
) -> None:
    """Under the root the kept text took "3"; its siblings get values by hand."""
    dataset_id = frozen(store)

    def pair_at_root(**siblings: dict[str, object]) -> tuple[str, float, str] | None:
        with store.session() as session:
            for digit, values in siblings.items():
                is_sibling = NodeText.text == f"{digit[1]}\n"
                ix = session.scalars(
                    select(NodeRow.ix)
                    .join(
                        NodeText,
                        (NodeText.search_id == NodeRow.search_id) & (NodeText.ix == NodeRow.ix),
                    )
                    .where(NodeRow.parent_ix == 0, is_sibling)
                ).one()
                session.execute(update(NodeRow).where(NodeRow.ix == ix).values(**values))
        with store.session() as session:
            session.execute(delete(PreferencePair))
            freeze_pairs(session, dataset_id)
            pairs = [p for p in stored_pairs(session, dataset_id) if not p.before]
        return next(((p.rejected_text, round(p.margin, 9), p.reason) for p in pairs), None)

    unvisited = {"visits": 0, "value_sum": 0.0}
    found = pair_at_root(
        d3={"visits": 4, "value_sum": 3.2},
        d0={"visits": 2, "value_sum": 1.0},
        d1={"visits": 5, "value_sum": 1.0},
        d2=unvisited,
    )
    assert found == ("1\n", 0.6, "")
    # Q within 0.1 of the chosen step's gives no pair.
    assert pair_at_root(d0={"value_sum": 1.5}, d1={"value_sum": 3.6}) is None
    found = pair_at_root(
        d0={"prior": 0.2, "unsound_reason": "wrong digit"},
        d2={"prior": 0.4, "unsound_reason": "the value changed"},
    )
    assert found == ("2\n", 0.8, "the value changed")


@pytest.mark.parametrize(
    "damage",
    [
        "margin = margin + 0.1",
        "chosen_ix = rejected_ix",
        "parent_ix = parent_ix + 1",
        "rejected_ix = 9999",
    ],
)
def test_the_checker_sees_a_damaged_pair(store: Store, damage: str) -> None:
    dataset_id = frozen(store)
    with store.session() as session:
        assert freeze_pairs(session, dataset_id)
        session.execute(text(f"UPDATE preference_pairs SET {damage}"))
    assert check_store(store)["pairs_are_siblings"] > 0


def test_what_was_kept_comes_out_as_prompt_and_completion(store: Store) -> None:
    dataset_id = frozen(store)
    with store.session() as session:
        kept = session.scalars(select(TrajectoryRow).where(TrajectoryRow.is_chosen)).one()
    (row,) = rows_of(store, "sft", dataset_id)
    steps = [step["text"] for step in kept.steps["steps"]]
    assert row == {"prompt": "31=", "completion": "".join(steps)}
    (verl,) = rows_of(store, "rl", dataset_id)
    assert verl["prompt"] == [{"role": "user", "content": "31"}]
    assert verl["reward_model"] == {"style": "rule", "ground_truth": "31"}


def test_a_step_is_good_while_the_text_is_the_beginning_of_a_kept_one(store: Store) -> None:
    dataset_id = frozen(store)
    whole = str(rows_of(store, "sft", dataset_id)[0]["completion"])
    rows = rows_of(store, "prm", dataset_id)
    labels = rows_of(store, "kto", dataset_id)
    assert any(r["label"] for r in labels) and not all(r["label"] for r in labels)
    for row, label in zip(rows, labels, strict=True):
        assert isinstance(row["completions"], list) and isinstance(row["labels"], list)
        so_far = ""
        for step, is_good in zip(row["completions"], row["labels"], strict=True):
            so_far += step
            assert is_good == whole.startswith(so_far)
        assert label["label"] == all(row["labels"])


def test_pairs_and_values_are_those_of_the_tree(store: Store) -> None:
    dataset_id = frozen(store)
    with store.session() as session:
        freeze_pairs(session, dataset_id)
    whole = "31=" + str(rows_of(store, "sft", dataset_id)[0]["completion"])
    pairs = rows_of(store, "dpo", dataset_id)
    assert pairs
    for pair in pairs:
        assert whole.startswith(f"{pair['prompt']}{pair['chosen']}")
        assert pair["chosen"] != pair["rejected"]
    with store.session() as session:
        nodes = [n for n in session.scalars(select(NodeRow)) if n.visits]
    means = {round(n.value_sum / n.visits, 9) for n in nodes}
    values = [row["value"] for row in rows_of(store, "value", dataset_id)]
    assert values and {round(float(str(v)), 9) for v in values} <= means


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_files_read_back_as_they_were_written(
    store: Store, kind: str, ending: str, tmp_path: Path
) -> None:
    dataset_id = frozen(store)
    path = tmp_path / "sets" / f"out.{ending}"
    rows = rows_of(store, kind, dataset_id)
    with store.session() as session:
        num = write_rows(exported(session, kind, [dataset_id], lambda p: f"{p}="), path, False)
    if ending == "jsonl":
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        found = parquet.read_table(path).to_pylist()
    assert found == rows and num == len(rows)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_export_that_cannot_be_made_says_why(store: Store, tmp_path: Path) -> None:
    dataset_id = frozen(store)
    with pytest.raises(UsageError, match="no export 'sfd'"):
        rows_of(store, "sfd", dataset_id)
    with pytest.raises(UsageError, match=r"neither \.jsonl nor \.parquet"):
        write_rows(iter([]), tmp_path / "x.csv", False)
    (tmp_path / "x.jsonl").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        write_rows(iter([]), tmp_path / "x.jsonl", False)
    assert (tmp_path / "x.jsonl").read_text() == "mine"
    with store.session() as session, pytest.raises(NotFoundError, match="run 'r' has no round 9"):
        datasets_of(session, "r", 9)


def test_trimming_keeps_what_was_trained_on_and_its_pairs(store: Store) -> None:
    dataset_id = frozen(store)
    before = {kind: rows_of(store, kind, dataset_id) for kind in KINDS}
    nodes = count(store, NodeRow)
    planned = trim(store, "r", 0, is_real=False)
    assert planned.nodes > 0 and planned.num_bytes > 0 and count(store, NodeRow) == nodes
    done = trim(store, "r", 0, is_real=True)
    assert (done.nodes, done.scores, done.simulations) == (
        planned.nodes,
        planned.scores,
        planned.simulations,
    )
    assert count(store, NodeRow) == nodes - done.nodes
    assert count(store, SimulationRow) == 0
    assert {kind: rows_of(store, kind, dataset_id) for kind in KINDS} == before
    assert not any(check_store(store).values())
    assert trim(store, "r", 0, is_real=True).searches == 0
    with store.session() as session:
        search_id = session.scalars(select(TrajectoryRow.search_id)).first()
    assert search_id is not None and read_tree(store, search_id)


def test_the_last_rounds_are_not_trimmed(store: Store) -> None:
    frozen(store)
    nodes = count(store, NodeRow)
    assert trim(store, "r", 1, is_real=True).searches == 0
    assert count(store, NodeRow) == nodes


def test_texts_of_problems_with_pictures_are_messages_with_their_files(store: Store) -> None:
    dataset_id = frozen(store)
    plain = rows_of(store, "sft", dataset_id)
    with store.session() as session:
        session.execute(update(ProblemRow).values(pictures=f"{'a' * 31} {'b' * 31}"))
        rows = list(
            exported(session, "sft", [dataset_id], lambda p: f"{p}=", file_of=lambda d: f"/p/{d}")
        )
        for kind in set(KINDS) - {"sft"}:
            with pytest.raises(UsageError, match="has no form for problems with pictures"):
                list(exported(session, kind, [dataset_id], lambda p: p))
    for row, other in zip(rows, plain, strict=True):
        image = {"type": "image"}
        text = {"type": "text", "text": other["prompt"]}
        assert row["prompt"] == [{"role": "user", "content": [image, image, text]}]
        (said,) = row["completion"]
        assert said == {
            "role": "assistant",
            "content": [{"type": "text", "text": other["completion"]}],
        }
        assert row["images"] == [f"/p/{'a' * 31}", f"/p/{'b' * 31}"]
