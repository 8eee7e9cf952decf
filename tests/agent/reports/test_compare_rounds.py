"""Two rounds are compared by what was measured of just their models, once a mode."""

from pathlib import Path

import pytest

from agent.reports.compare_rounds import compare_rounds
from store.database import Store, now_us, open_store
from store.schema import EvaluationItem, EvaluationRow
from tests.rows import a_round, a_run

N = 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"sqlite:///{tmp_path}/store.db")


def measured(store: Store, models: dict[str, str], mode: str, num_correct: int, n: int = N) -> None:
    with store.session() as session:
        row = EvaluationRow(
            policy_version=models["policy"],
            config_sha=f"{models}{mode}{n}",
            mode=mode,
            settings={"mode": mode},
            models=models,
            benchmark_sha=f"b{n}",
            n=n,
            num_correct=num_correct,
            num_unanswered=0,
            num_tokens=1,
            low=0.0,
            high=1.0,
            seconds=1.0,
            created_ts=now_us(),
        )
        session.add(row)
        session.flush()
        session.add_all(
            EvaluationItem(evaluation_id=row.id, problem_key=f"p{i}", is_correct=i < num_correct)
            for i in range(n)
        )


def rounds(store: Store, *stages: str) -> None:
    """Each round trains policy pN and value critic vN; a kept one hands on its critic alone."""
    with store.session() as session:
        session.add(a_run(id=1))
        session.flush()
        policy, value = "p0", "v0"
        for number, stage in enumerate(stages, 1):
            session.add(
                a_round(
                    1,
                    number,
                    stage,
                    models={"policy": policy, "value": value},
                    candidates={"policy": f"p{number}", "value": f"v{number}"},
                )
            )
            policy, value = f"p{number}" if stage == "promoted" else policy, f"v{number}"


def test_a_kept_policy_is_compared_by_the_critics_that_each_round_ended_with(store: Store) -> None:
    rounds(store, "kept", "promoted")
    measured(store, {"policy": "p0", "value": "v0"}, "search", 4)
    measured(store, {"policy": "p0", "value": "v1"}, "search", 6)
    measured(store, {"policy": "p2", "value": "v2"}, "search", 9)
    (row,) = compare_rounds(store, "r", 0, 1)
    assert (row["before"], row["after"], row["gained"], row["lost"]) == (0.4, 0.6, 2, 0)
    (row,) = compare_rounds(store, "r", 0, 2)
    assert (row["before"], row["after"], row["gained"]) == (0.4, 0.9, 5)
    assert row["low"] < row["difference"] < row["high"]


def test_only_the_same_problems_are_compared(store: Store) -> None:
    rounds(store, "promoted")
    measured(store, {"policy": "p0"}, "greedy", 3)
    measured(store, {"policy": "p1"}, "greedy", 5)
    measured(store, {"policy": "p1"}, "greedy", 5, n=5)
    (row,) = compare_rounds(store, "r", 0, 1)
    assert (row["n"], row["before"], row["after"]) == (N, 0.3, 0.5)
