"""Rounds that train several policies: the gate takes the best, the others vote afterwards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from agent.checkpoints.custody import current_models
from agent.checkpoints.embedded import EMBEDDED
from agent.config.load import load_config
from agent.evaluation.answering import Plan
from agent.open_models import _last_models
from agent.progress import Silent
from agent.rounds.context import RunContext
from agent.rounds.evaluation_stage import EvaluationStage
from agent.rounds.round import RoundRunner
from agent.rounds.run import Improver
from agent.search_models import Models
from search.state import Problem
from store.datasets import selected_report
from store.evaluations import Answered, Evaluation
from store.questions import QUESTIONS
from store.rounds import open_round
from store.schema import CheckpointRow, Round
from tests.agent.rounds.small import places

pytestmark = pytest.mark.round

FLAGS: dict[str, Any] = {
    "policy": str(EMBEDDED / "expressions" / "policy"),
    "hosting.hosting": "inline",
    "hosting.speculation": "never",
    "critics.use_tool": False,
    "critics.steps": 0,
    "critics.checker_steps": 0,
    "voting.trained": 2,
    "problems_per_round": 12,
    "num_seeds": 20,
    "tokens_per_problem": 60,
    "search.simulations": 2,
    "selection.probes": 24,
    "selection.min_precision": 0.4,
    "training.num_steps": 2,
    "training.batch_size": 8,
    "training.drafter_steps": 0,
    "evaluation.num_problems": 12,
    "evaluation.num_search_problems": 0,
}


class Exam(EvaluationStage):
    """Greedy answers of which as many are right as is said, policy by policy as they are asked."""

    def __init__(self, context: RunContext, right: list[int]) -> None:
        super().__init__(context)
        self.right = right
        self.of: dict[str, int] = {}

    def _answered(self, models: Models, problems: list[Problem], plan: Plan) -> Evaluation:
        num = self.of.setdefault(models.policy.version, self.right[len(self.of)])
        items = {p.id: Answered(p.answer, place < num) for place, p in enumerate(problems)}
        return Evaluation(plan.mode, items, 1, 1.0, (0.0, 1.0), 1.0, 0)


def examined(improver: Improver, right: list[int]) -> tuple[Round, list[str]]:
    """The ended round, and the policies in the order in which they were asked."""
    improver._new_round()
    with improver.store.session() as session:
        row = open_round(session, improver.run_id)
    assert row is not None
    context = improver.context()
    runner = RoundRunner(context)
    runner.evaluation = exam = Exam(context, right)
    runner.run(row.id)
    with improver.store.session() as session:
        return session.get_one(Round, row.id), list(exam.of)


@pytest.fixture
def improver(tmp_path: Path) -> Iterator[Improver]:
    config, _ = load_config(FLAGS | places(tmp_path))
    with Improver(config, Silent()).started() as started:
        yield started


def test_the_best_of_all_is_promoted_and_the_others_vote_in_the_next_round(
    improver: Improver,
) -> None:
    # The policy, its voters, then the policy that the round began with.
    first, asked = examined(improver, [4, 2, 11, 0])
    assert first.stage == "promoted" and first.candidates is not None
    assert first.verdict is not None and first.verdict["gained"] == 11
    # Three policies share the level of a run's first test.
    assert first.verdict["rule"].endswith("p < 0.00507")
    names = ("policy", "voter-1", "voter-2")
    assert [first.candidates[name] for name in names] == [asked[2], asked[1], asked[0]]
    with improver.store.session() as session:
        rows = session.scalars(
            select(CheckpointRow).where(CheckpointRow.round_id == first.id)
        ).all()
        made = {row.version: row for row in rows}
    assert {row.role for row in made.values()} == {"policy"} and len(made) == 3
    assert set(first.candidates.values()) == set(made)
    assert {row.parent_version for row in made.values()} == {first.models["policy"]}
    assert {row.status for row in made.values()} == {"ready"}
    second, _ = examined(improver, [0, 0, 0, 11])
    assert second.models == first.models | first.candidates
    with improver.store.session() as session:
        views = selected_report(session, second.id)["views"]
    voters = {first.candidates["voter-1"], first.candidates["voter-2"]}
    # Each of the two answers each problem once.
    assert set(views["policies"]) == voters and views["num"] >= 2 * 24
    assert second.stage == "kept"


def test_whoever_serves_or_goes_on_does_so_without_voters_that_are_gone(
    improver: Improver, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = examined(improver, [11, 4, 2, 0])
    assert first.candidates is not None
    loaded = _last_models(improver.config.model_copy(update={"policy": ""}))
    assert loaded is not None
    assert set(loaded[0]) == {"policy", "drafter", "value", "process", "outcome"}
    with improver.store.session() as session:
        path = session.scalars(
            select(CheckpointRow.path).where(
                CheckpointRow.version == first.candidates["voter-1"], CheckpointRow.role == "policy"
            )
        ).one()
    (Path(path) / "model.safetensors").write_bytes(b"gone")
    said: list[str] = []
    refs = current_models(improver.store, improver.run_id, said.append)
    assert refs is not None and "voter-1" not in refs and "voter-2" in refs
    assert any("votes no more" in line for line in said)
    improver._new_round()
    with improver.store.session() as session:
        row = open_round(session, improver.run_id)
    assert row is not None and set(row.models) == {*loaded[0], "voter-2"}


def test_the_gains_of_a_round_are_those_of_its_candidate_alone(improver: Improver) -> None:
    examined(improver, [4, 2, 11, 0])
    (question,) = (q for q in QUESTIONS if q.name == "flips")
    with improver.store.session() as session:
        rows = session.execute(text(question.sql), {"run": "default", "round": 1}).mappings().all()
    assert {row["verdict"]: row["problems"] for row in rows} == {
        "gained": 11,
        "solved by neither": 1,
    }


def test_a_round_that_promotes_nothing_leaves_no_voters(improver: Improver) -> None:
    first, _ = examined(improver, [3, 2, 1, 3])
    assert first.stage == "kept"
    with improver.store.session() as session:
        rows = session.scalars(
            select(CheckpointRow).where(CheckpointRow.round_id == first.id)
        ).all()
        assert {row.status for row in rows} == {"rejected"} and len(rows) == 3
    improver._new_round()
    with improver.store.session() as session:
        row = open_round(session, improver.run_id)
    assert row is not None and row.models == first.models


def test_equals_leave_the_first_one_the_candidate(improver: Improver) -> None:
    first, asked = examined(improver, [11, 11, 0, 0])
    assert first.stage == "promoted" and first.candidates is not None
    assert first.candidates["policy"] == asked[0]
