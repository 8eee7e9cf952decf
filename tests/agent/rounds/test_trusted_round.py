"""Whole rounds without a tool: probes are searched with the others and never learned from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from agent.checkpoints.embedded import EMBEDDED
from agent.cli.commands.improve import kept_line
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.inputs import checked_inputs
from agent.rounds.label_sampling import is_measuring
from agent.rounds.run import Improver
from search.errors import RatchetError
from store.datasets import selected_report
from store.schema import DatasetItem, Event, ProblemRow, Round, SearchRow, TrajectoryRow
from store.states import PROBE

pytestmark = pytest.mark.round

FLAGS: dict[str, Any] = {
    "hosting.hosting": "inline",
    "hosting.speculation": "never",
    "critics.use_tool": False,
    "critics.steps": 0,
    "imagination.wordings": 1,
    "voting.wordings": 2,
    "problems_per_round": 16,
    "num_seeds": 20,
    "tokens_per_problem": 60,
    "search.simulations": 2,
    "selection.probes": 24,
    "training.num_steps": 1,
    "training.batch_size": 8,
    "training.drafter_steps": 0,
    "evaluation.num_problems": 12,
    "evaluation.num_search_problems": 0,
}


class Said(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Improver, Said]]:
    """A round that may promise little, on few probes."""
    folder: Path = tmp_path_factory.mktemp("trusted")
    places = {"store": f"sqlite:///{folder}/s.db", "checkpoints": f"{folder}/checkpoints"}
    said = Said()
    config, _ = load_config(FLAGS | places | {"selection.min_precision": 0.5})
    with Improver(config, said).started() as improver:
        improver.run_round()
        yield improver, said


def read(improver: Improver) -> tuple[dict[str, Any], list[ProblemRow], set[str]]:
    """The selection's report, the problems searched, and the origins of what was kept."""
    with improver.store.session() as session:
        number = session.scalars(select(Round.id)).one()
        report = selected_report(session, number)
        problems = session.scalars(
            select(ProblemRow).join(SearchRow, SearchRow.problem_id == ProblemRow.id)
        ).all()
        kept = session.scalars(
            select(ProblemRow.origin)
            .join(TrajectoryRow, TrajectoryRow.problem_id == ProblemRow.id)
            .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
        ).all()
        session.expunge_all()
    return report, list(problems), set(kept)


def test_probes_are_searched_in_their_wordings_and_nothing_is_learned_from_them(
    ran: tuple[Improver, Said],
) -> None:
    report, problems, kept = read(ran[0])
    probes = [p for p in problems if p.origin == PROBE]
    heads = [p for p in probes if not p.family]
    assert len(heads) == 24 and all(is_measuring(p.key) and p.answer for p in heads)
    others = [p for p in probes if p.family]
    assert others and {p.family for p in others} <= {p.key for p in heads}
    assert PROBE not in kept and report["searches"] == 16 == len(problems) - len(probes)
    assert report["probes"].keys() == {p.key for p in heads}


def test_the_round_says_what_it_may_promise(ran: tuple[Improver, Said]) -> None:
    report, problems, _ = read(ran[0])
    trust = report["trust"]
    assert (trust["aim"], trust["certainty"]) == (0.5, 0.9) and trust["labelled"] == 24
    assert trust["bound"] >= 0.5 and trust["trusted_right"] <= trust["trusted"] <= 24
    assert 0 < report["agreement"] <= 1 and report["answers"] >= 1
    assert sum(r["searches"] for r in report["rungs"].values()) == 16
    views = report["views"]
    families = len({p.family or p.key for p in problems})
    assert families < views["num"] <= 2 * families and views["tokens"] > views["num"]
    assert views["policies"] == [ran[0].inputs.base["policy"].version]
    assert any("labelled problems are answered right" in line for line in ran[1].lines)


def test_what_is_measured_with_is_not_imagined(ran: tuple[Improver, Said]) -> None:
    _, problems, _ = read(ran[0])
    texts = [p.text for p in problems]
    assert len(texts) == len(set(texts))


def test_a_round_that_can_promise_nothing_keeps_nothing_and_says_what_would_help(
    tmp_path: Path,
) -> None:
    places = {"store": f"sqlite:///{tmp_path}/s.db", "checkpoints": f"{tmp_path}/checkpoints"}
    said = Said()
    aim = {"selection.min_precision": 0.83, "voting.wordings": 0}
    config, _ = load_config(FLAGS | places | aim)
    with Improver(config, said).started() as improver:
        outcome = improver.run_round()
        with improver.store.session() as session:
            kinds = session.scalars(select(Event.kind)).all()
            assert not session.scalars(select(DatasetItem)).all()
    assert outcome.stage == "kept" and "no trajectory passed" in outcome.verdict["reason"]
    assert "selected" in kinds and outcome.before is None
    (line,) = [x for x in said.lines if "no answer can be trusted" in x]
    assert "21 trusted ones" in line and "selection.probes" in line


def test_too_few_labelled_problems_are_told_before_a_model_loads(tmp_path: Path) -> None:
    def refused(**more: Any) -> RatchetError:
        config, _ = load_config(FLAGS | {"store": f"sqlite:///{tmp_path}/s.db"} | more)
        with pytest.raises(RatchetError, match="no answer could be trusted") as found:
            checked_inputs(config)
        return found.value

    few = refused(**{"selection.min_precision": 0.9})
    assert "takes 38 labelled problems" in few.message and few.message.endswith("there are 24")
    assert few.fix.startswith("set selection.probes to 38 or more")
    none = refused(**{"selection.probes": 0, "selection.min_precision": 0.5})
    assert none.message.endswith("there are 0")


def test_a_file_needs_enough_labelled_problems_unless_its_own_answers_decide(
    tmp_path: Path,
) -> None:
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(2, 200)]
    problems, labelled = tmp_path / "problems.jsonl", tmp_path / "labelled.jsonl"
    asked = [{"question": f"What is {n} - 1?"} for n in range(2, 100)]
    labelled.write_text("".join(json.dumps(row) + "\n" for row in rows[:40]))
    flags = {"task": "jsonl", "problems": str(problems), "labelled": str(labelled)}
    flags |= {"store": f"sqlite:///{tmp_path}/s.db", "policy": str(EMBEDDED / "stories" / "policy")}
    flags |= {"held_out": str(tmp_path / "held-out.jsonl")}
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[100:]))

    def checked(own: list[dict[str, str]], **more: Any) -> None:
        problems.write_text("".join(json.dumps(row) + "\n" for row in own))
        checked_inputs(load_config(flags | more)[0])

    with pytest.raises(RatchetError, match="no answer could be trusted") as found:
        checked(asked)
    assert "give about 152 labelled problems" in found.value.fix
    checked([*asked, *rows[:5]])  # answers of one's own decide
    checked(asked, **{"selection.min_precision": 0})


def test_what_may_be_promised_is_told_in_a_line() -> None:
    trust = {"aim": 0.9, "certainty": 0.9, "labelled": 150, "trusted": 111, "trusted_right": 107}
    found = {"kept": 40, "searches": 160, "trust": trust | {"bound": 0.907, "threshold": 0.5}}
    assert kept_line(found) == (
        "learned from 40 texts of 160 searches; on 150 labelled problems 107 of 111 trusted "
        "answers are right: at least 0.91 with certainty 0.9"
    )
    none = {"kept": 0, "searches": 160, "trust": trust | {"bound": 0.3, "threshold": None}}
    assert kept_line(none).endswith("no rule reached 0.9 on 150 labelled problems")
    assert kept_line({"kept": 9, "searches": 12}) == "learned from 9 texts of 12 searches"
    assert kept_line({}) == ""


def test_who_votes_must_be_a_policy_that_is_there(tmp_path: Path) -> None:
    base = EMBEDDED / "expressions"
    for path, wrong in (
        (str(tmp_path / "none"), "none"),
        (str(base / "value"), "critic"),
        (str(EMBEDDED / "stories" / "policy"), "another tokenizer"),
    ):
        config, _ = load_config(
            FLAGS | {"store": f"sqlite:///{tmp_path}/s.db", "voting.policies": [path]}
        )
        with pytest.raises(RatchetError, match=wrong):
            checked_inputs(config)
