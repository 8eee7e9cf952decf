"""Whole rounds: resumed after any kill with the same result, blind to reference answers."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from agent.checkpoints.embedded import EMBEDDED
from agent.config.load import load_config
from agent.hosting.inline_hosts import InlineHosts
from agent.imagination.imagine import Imagination, Imagined
from agent.progress import Silent
from agent.reports.compare_rounds import compare_rounds
from agent.reports.plots import plot_run
from agent.rounds.run import Improver
from agent.rounds.search_stage import SearchStage
from search.errors import NotFoundError, UsageError
from store.check import check_store
from store.database import open_store
from store.inspection import list_rounds
from store.schema import Round, SearchRow
from tests.agent.conftest import write_checkpoint
from tests.agent.rounds.small import SMALL, improve, places

pytestmark = pytest.mark.round


def run_rounds(folder: Path, policy: Path, rounds: int = 1, **flags: Any) -> list[Any]:
    config, _ = load_config(SMALL | places(folder) | {"policy": str(policy)} | flags)
    with Improver(config, Silent()).started() as improver:
        return [improver.run_round() for _ in range(rounds)]


def contents(folder: Path) -> dict[str, Any]:
    """All that a round's results are, without times and ids of processes."""
    store = open_store(f"sqlite:///{folder}/store.db", must_exist=True)
    questions = {
        "searches": "SELECT position, status, num_simulations, num_tokens, answer, confidence, "
        "stop_reason, is_correct FROM searches ORDER BY round_id, position",
        "nodes": "SELECT n.search_id, n.ix, n.parent_ix, n.visits, n.value_sum, n.prior, t.text "
        "FROM nodes n JOIN node_texts t USING (search_id, ix) ORDER BY 1, 2",
        "simulations": "SELECT * FROM simulations ORDER BY search_id, seq",
        "journals": "SELECT count(*) FROM search_journals",
        "scores": "SELECT search_id, ix, critic, seq, score FROM critic_scores ORDER BY 1, 2, 3, 4",
        "trajectories": "SELECT search_id, sha, outcome, is_chosen FROM trajectories ORDER BY 1, 2",
        "datasets": "SELECT num_items, sha FROM datasets ORDER BY id",
        "checkpoints": "SELECT role, version, parent_version, round_id FROM checkpoints "
        "ORDER BY role, version",
        "evaluations": "SELECT policy_version, mode, n, num_correct, num_tokens FROM evaluations "
        "ORDER BY policy_version, mode",
        "rounds": "SELECT number, stage, models, candidates FROM rounds ORDER BY number",
    }
    with store.session() as session:
        found = {k: [tuple(r) for r in session.execute(text(q))] for k, q in questions.items()}
    assert not any(check_store(store).values())
    store.close()
    return found


def test_a_round_goes_from_problems_to_a_verdict(checkpoint: Path, tmp_path: Path) -> None:
    outcome = run_rounds(tmp_path, checkpoint)[0]
    assert outcome.stage in ("promoted", "kept")
    assert outcome.verdict["n"] == 12
    assert outcome.before.greedy.n == outcome.after.greedy.n == 12
    assert outcome.before.search.n == 3
    found = contents(tmp_path)
    assert len(found["searches"]) == 10
    assert all(row[1] == "done" for row in found["searches"])
    roles = [row[0] for row in found["checkpoints"]]
    assert {r: roles.count(r) for r in set(roles)} == {
        "policy": 2,
        "drafter": 2,
        "value": 1,
        "process": 1,
        "outcome": 1,
    }  # a random policy is never right, so there is one class only to learn


def test_the_next_round_begins_where_the_last_one_ended(checkpoint: Path, tmp_path: Path) -> None:
    first, second = run_rounds(tmp_path, checkpoint, 2)
    assert (first.number, second.number) == (1, 2)
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    with store.session() as session:
        one, two = session.scalars(select(Round).order_by(Round.number)).all()
        assert one.candidates is not None
        kept = one.models["policy"] if one.stage == "kept" else one.candidates["policy"]
        assert two.models["policy"] == kept
        critics = {k: v for k, v in one.candidates.items() if k in ("value", "process", "outcome")}
        assert {k: two.models[k] for k in critics} == critics
        keys = session.execute(
            text("SELECT count(*), count(DISTINCT problem_id) FROM searches")
        ).one()
        assert tuple(keys) == (20, 20)


def test_rounds_are_compared_and_drawn(checkpoint: Path, tmp_path: Path) -> None:
    outcome = run_rounds(tmp_path, checkpoint)[0]
    assert outcome.before is not None and outcome.after is not None
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    rows = {row["mode"]: row for row in compare_rounds(store, "default", 0, 1)}
    after = outcome.after if outcome.stage == "promoted" else outcome.before
    assert rows["greedy"]["n"] == 12 and rows["search"]["n"] == 3
    assert rows["greedy"]["before"] == outcome.before.greedy.num_correct / 12
    assert rows["greedy"]["after"] == after.greedy.num_correct / 12
    assert rows["greedy"]["gained"] + rows["greedy"]["lost"] + rows["greedy"]["same"] == 12
    with pytest.raises(NotFoundError, match="no ended round 2"):
        compare_rounds(store, "default", 0, 2)
    plot_run(store, "default", tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"none of \.png"):
        plot_run(store, "default", tmp_path / "run.txt")


def test_a_resumed_round_asks_the_models_only_for_what_its_journals_lack(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the first commit: what was told is told again, not generated again."""
    calls: list[str] = []
    asked: list[int] = []
    run = SearchStage.run

    def counted(name: str) -> Any:
        method = getattr(InlineHosts, name)

        def counting(self: InlineHosts, *arguments: Any) -> Any:
            calls.append(name)
            return method(self, *arguments)

        return counting

    def noting(self: SearchStage) -> None:
        before = len(calls)
        run(self)
        asked.append(len(calls) - before)

    for name in ("options", "completions", "drafted_completions", "logprobs", "critic_logits"):
        monkeypatch.setattr(InlineHosts, name, counted(name))
    monkeypatch.setattr(SearchStage, "run", noting)
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    one_cohort = {"hosting.cohort": 10, "evaluation.num_search_problems": 0}
    done = improve(stormy, checkpoint, failpoint="after-journal", **one_cohort)
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = open_store(f"sqlite:///{stormy}/store.db")
    with store.session() as session:
        told = session.execute(text("SELECT count(*) FROM search_journals")).scalar_one()
    store.close()
    assert told > 10
    for folder in (calm, stormy):
        run_rounds(folder, checkpoint, **one_cohort)
    assert contents(stormy) == contents(calm)
    assert asked[0] > 10 and asked[1] < asked[0]


def test_journals_of_another_version_are_dropped_and_the_searches_begin_anew(
    checkpoint: Path, tmp_path: Path
) -> None:
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    run_rounds(calm, checkpoint)
    done = improve(stormy, checkpoint, failpoint="after-journal")
    assert done.returncode == -signal.SIGKILL, done.stderr
    store = open_store(f"sqlite:///{stormy}/store.db")
    with store.session() as session:
        session.execute(
            text("UPDATE search_journals SET entry = replace(entry, '\"ix\": 0', '\"ix\": 99')")
        )
    store.close()
    run_rounds(stormy, checkpoint)
    assert contents(stormy) == contents(calm)


def test_a_planted_false_answer_changes_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = EMBEDDED / "expressions/policy"  # one that is right at times: else nothing could show
    run_rounds(tmp_path / "true", policy)
    plain = Imagination.imagine

    def lying(self: Imagination, *arguments: Any) -> Imagined:
        found = plain(self, *arguments)
        return replace(found, problems=[replace(p, answer="777") for p in found.problems])

    monkeypatch.setattr(Imagination, "imagine", lying)
    run_rounds(tmp_path / "false", policy)
    true, false = contents(tmp_path / "true"), contents(tmp_path / "false")
    for part in ("nodes", "scores", "datasets", "checkpoints"):
        assert true[part] == false[part]
    assert [r[:7] for r in true["searches"]] == [r[:7] for r in false["searches"]]
    assert any(r[7] for r in true["searches"]) and not any(r[7] for r in false["searches"])


def test_results_do_not_depend_on_speculation(checkpoint: Path, tmp_path: Path) -> None:
    for mode in ("never", "always", "auto"):
        run_rounds(tmp_path / mode, checkpoint, **{"hosting.speculation": mode})
    never, always, auto = (contents(tmp_path / m) for m in ("never", "always", "auto"))
    assert never == always == auto


def test_an_empty_selection_keeps_the_policy_and_says_what_to_do(
    checkpoint: Path, tmp_path: Path
) -> None:
    flags = {"selection.must_be_sound": True, "search.unsound": "prune"}
    outcome = run_rounds(tmp_path, checkpoint, **flags)[0]
    assert outcome.stage == "kept"
    assert "no finished text 10: raise hosting.text_tokens" in outcome.verdict["reason"]


def test_a_second_improve_on_the_same_run_is_refused_by_name(
    checkpoint: Path, tmp_path: Path
) -> None:
    config, _ = load_config(SMALL | places(tmp_path) | {"policy": str(checkpoint)})
    with Improver(config, Silent()).started():
        done = improve(tmp_path, checkpoint)
    assert done.returncode == 5
    message = json.loads(done.stderr)["error"]
    assert "is being worked on by process" in message["message"] and "--run" in message["next"]


def test_a_run_cannot_change_its_policy(checkpoint: Path, tmp_path: Path) -> None:
    run_rounds(tmp_path, checkpoint)
    other = write_checkpoint(tmp_path / "other", seed=9)
    done = improve(tmp_path, other)
    assert done.returncode == 2 and "--run" in json.loads(done.stderr)["error"]["next"]


def test_every_search_carries_what_it_takes_to_replay_it(checkpoint: Path, tmp_path: Path) -> None:
    run_rounds(tmp_path, checkpoint)
    store = open_store(f"sqlite:///{tmp_path}/store.db")
    with store.session() as session:
        row = session.scalars(select(Round)).one()
        assert row.config_sha and row.search_config["simulations"] == 4
        seeds = session.scalars(select(SearchRow.seed)).all()
        assert len(set(seeds)) == 10
        versions = set(session.scalars(select(SearchRow.policy_version)))
        assert versions == {row.models["policy"]}


def test_an_unfinished_round_can_be_given_up(checkpoint: Path, tmp_path: Path) -> None:
    improve(tmp_path, checkpoint, failpoint="after-claim")
    config, _ = load_config(SMALL | places(tmp_path) | {"policy": str(checkpoint)})
    with Improver(config, Silent()).started() as improver:
        improver.give_up_open_round()
        outcome = improver.run_round()
    assert outcome.number == 2
    found = contents(tmp_path)
    assert found["rounds"][0][1] == "failed"
    assert {r[1] for r in found["searches"][:10]} == {"failed"}


def test_a_worker_that_lost_its_run_cannot_move_the_round(checkpoint: Path, tmp_path: Path) -> None:
    from search.errors import BusyError

    config, _ = load_config(SMALL | places(tmp_path) | {"policy": str(checkpoint)})
    with Improver(config, Silent()).started() as improver:
        with improver.store.session() as session:
            session.execute(text("UPDATE runs SET fence = fence + 1"))
        with pytest.raises(BusyError):
            improver.run_round()
    assert contents(tmp_path)["searches"] == []


def test_embedded_models_are_copied_beside_what_is_trained_from_them(tmp_path: Path) -> None:
    config, _ = load_config(SMALL | places(tmp_path))
    with Improver(config, Silent()).started() as improver:
        paths = {role: Path(ref.path) for role, ref in improver.models.items()}
    assert {p.parent for p in paths.values()} == {(tmp_path / "checkpoints").resolve()}
    assert paths["policy"].name == f"policy-{improver.models['policy'].version}"


def test_a_round_runs_on_either_database(checkpoint: Path, tmp_path: Path, url: str) -> None:
    config, _ = load_config(SMALL | places(tmp_path) | {"policy": str(checkpoint), "store": url})
    with Improver(config, Silent()).started() as improver:
        assert improver.run_round().stage in ("promoted", "kept")
    store = open_store(url, must_exist=True)
    assert not any(check_store(store).values())
    (row,) = list_rounds(store)
    assert row["searches"] == "10/10"
    store.close()
