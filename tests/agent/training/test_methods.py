"""Every way of training takes a round of the embedded models from its searches to a verdict."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.header import read_header
from agent.config.load import load_config
from agent.config.settings import PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.progress import Silent
from agent.prompts import Prompts
from agent.reports.critic_drift import critic_drift
from agent.rounds.critic_lessons import CriticLessons
from agent.rounds.run import Improver
from agent.tasks.expressions import Expressions
from agent.training.examples import judged_rows, scalar_rows
from agent.training.labelling import tree_rows
from agent.training.stored_examples import pair_examples, sibling_steps
from search.errors import RatchetError
from store.check import check_store
from store.database import open_store
from store.datasets import dataset_of, stored_states
from store.pairs import stored_pairs
from store.schema import CheckpointRow, Round
from store.siblings import stored_siblings
from store.verdicts import dataset_window, stored_verdicts
from tests.agent.rounds.small import SMALL, places

pytestmark = pytest.mark.round

TEACHING = SMALL | {
    "problems_per_round": 16,
    "search.simulations": 8,
    "search.unsound": "prune",
    "selection.must_be_sound": True,
    "selection.must_answer": True,
    "hosting.text_tokens": 80,
    "hosting.option_tokens": 24,
    "critics.steps": 0,
    "training.batch_size": 8,
    "evaluation.num_search_problems": 0,
}


def run(folder: Path, **flags: Any) -> dict[str, Any]:
    """One round; the report of the policy it trained."""
    config, _ = load_config(TEACHING | places(folder) | flags)
    with Improver(config, Silent()).started() as improver:
        outcome = improver.run_round()
    assert outcome.stage in ("promoted", "kept") and outcome.verdict["n"] == 12
    store = open_store(config.store)
    with store.session() as session:
        row = session.scalars(
            select(CheckpointRow).where(
                CheckpointRow.role == "policy", CheckpointRow.round_id.is_not(None)
            )
        ).one()
        report = dict(row.report)
    assert not any(check_store(store).values())
    store.close()
    return report


@pytest.mark.parametrize("method", ["sft", "dpo", "tr-dpo", "dr-po", "tree-pg"])
def test_a_round_trains_by_the_method_that_is_set(tmp_path: Path, method: str) -> None:
    report = run(tmp_path, **{"training.method": method})
    assert report["method"] == method and report["num_steps"] == 4
    if method == "dr-po":
        assert 0 < report["first_reward"] < 1
    if method == "tree-pg":
        assert 0 <= report["moved"] < 1 and report["num_examples"] > 4


def test_dr_po_may_begin_where_a_searchs_steps_came_to_different_things(tmp_path: Path) -> None:
    flags = {"training.method": "dr-po", "search.leaves": "states"}
    everywhere = run(tmp_path / "all", **flags)
    disputed = run(tmp_path / "disputed", **flags, **{"training.disputed_states": True})
    assert 0 < disputed["num_examples"] < everywhere["num_examples"]


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_round_trains_an_adapter_through_trl(tmp_path: Path, method: str) -> None:
    pytest.importorskip("trl", reason="TRL is not installed: pip install -e '.[trl]'")
    flags = {"training.trainer": "trl", "training.lora_rank": 4, "training.method": method}
    report = run(tmp_path, **flags)
    assert (report["trainer"], report["method"], report["lora_rank"]) == ("trl", method, 4)
    assert len(list((tmp_path / "checkpoints").glob("adapter-*/adapter_model.safetensors"))) == 1


@pytest.mark.parametrize("method", ["sft", "dr-po"])
def test_a_round_trains_adapters_for_all_roles(tmp_path: Path, method: str) -> None:
    flags = {"training.lora_rank": 4, "training.method": method, "critics.steps": 2}
    report = run(tmp_path, **flags)
    assert report["method"] == method and report["lora_rank"] == 4
    found = [read_header(f.parent) for f in tmp_path.glob("checkpoints/*/adapter_config.json")]
    roles = {header.notes["role"] for header in found}
    assert {"policy", "drafter", "value", "process", "outcome"} <= roles
    assert all(header.base is not None for header in found)


def test_pairs_and_states_are_read_back_from_the_stored_trees(tmp_path: Path) -> None:
    run(tmp_path, **{"search.leaves": "states"})  # they come to wrong texts, too
    tokenizer = Tokenizer(EMBEDDED / "expressions/policy")
    prompts = Prompts(Expressions(), tokenizer, PromptSettings())
    store = open_store(places(tmp_path)["store"])
    with store.session() as session:
        dataset = dataset_of(session, session.scalars(select(Round.id)).one())
        assert dataset is not None and dataset.num_items > 3
        pairs = list(stored_pairs(session, dataset.id))
        states = stored_states(session, dataset.id)
        verdicts = list(stored_verdicts(session, dataset.id))
        siblings = list(stored_siblings(session, dataset.id))
        window = dataset_window(session, 1, 1, 2)
        nothing = dataset_window(session, 1, 1, 0)
    (drift,) = critic_drift(store, "default")
    store.close()
    rows = tree_rows(verdicts, pair_examples(pairs, prompts))
    assert drift["round"] == 1 and drift["texts"] >= 10
    assert 0 < drift["mean_score"] < 1 and 0 < drift["right"] <= 1
    assert (window, nothing) == ([dataset.id], [])
    good = [v for v in verdicts if v.is_good]
    assert len(good) == dataset.num_items and len(verdicts) > len(good)
    assert len(rows["outcome"]) == len(rows["value"]) == len(verdicts)
    assert sum(r.is_good for r in judged_rows(rows["outcome"])) == dataset.num_items
    assert len(rows["process"]) == 2 * len(pairs)
    for row in judged_rows(rows["process"]):
        assert row.is_good or (row.first_wrong is not None and row.first_wrong >= row.num_given)
    for value in scalar_rows(rows["value"]):
        assert value.places[-1] == len(value.tokens) - 1 and all(0 <= x <= 1 for x in value.labels)
    beginnings = {(tokens, num_prompt) for tokens, num_prompt, _ in states}
    assert {number for *_, number in states} == set(range(dataset.num_items))
    assert pairs
    for pair in pairs:
        chosen = tokenizer.decode(pair.chosen)
        assert chosen != pair.rejected_text and pair.margin > 0
        assert (pair.prompt_tokens + pair.before, len(pair.prompt_tokens)) in beginnings
        tokens = tokenizer.encode(pair.rejected_text, is_start=False)
        assert len(tokens) + (pair.rejected_stop == "end") == pair.rejected_tokens
    for group in siblings:
        assert (group.prompt_tokens + group.before, len(group.prompt_tokens)) in beginnings
        assert len(group.steps) > 1 and len({s.q for s in group.steps}) > 1
        assert all(0 <= s.q <= 1 for s in group.steps)
    # Each pair's steps are among those of its state, and there are states that no pair is of.
    stood = {group.prompt_tokens + group.before: group for group in siblings}
    assert len(stood) == len(siblings) >= len({p.prompt_tokens + p.before for p in pairs})
    for pair in pairs:
        texts = [s.text for s in stood[pair.prompt_tokens + pair.before].steps]
        assert pair.rejected_text in texts and tokenizer.decode(pair.chosen) in texts
    rows_of_trees = sibling_steps(siblings, prompts, 512)
    assert len(rows_of_trees) == len(siblings)
    assert sibling_steps(siblings, prompts, 5) == []  # what no context holds is left out
    assert any(p.reason for p in pairs)  # what the calculator refuted is the likeliest mistake


def test_without_pairs_the_round_is_kept_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.rounds.training_stage.pair_examples", lambda *_: [])
    config, _ = load_config(TEACHING | places(tmp_path) | {"training.method": "dpo"})
    with Improver(config, Silent()).started() as improver:
        outcome = improver.run_round()
    assert outcome.stage == "kept" and "training.method to sft" in outcome.verdict["reason"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"training.quantization": "nf4"}, "our own loop holds the weights"),
        ({"training.lora_rank": 4, "hosting.engine": "vllm"}, "given whole weights"),
        ({"training.trainer": "trl", "training.method": "dr-po"}, "does not offer"),
        ({"training.trainer": "trl", "training.method": "tree-pg"}, "does not offer"),
        ({"training.trainer": "trl", "training.quantization": "nf4"}, "cannot be trained"),
        ({"training.method": "ppo"}, "training.method"),
        ({"hosting.training_workers": 2}, "needs hosting.hosting ray"),
        ({"bundle": "nowhere"}, "bundle 'nowhere' has no"),
        ({"imagination.writer": "/nowhere"}, "/nowhere"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_a_model_is_loaded(
    tmp_path: Path, flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(RatchetError, match=said) as caught:
        Improver(load_config(TEACHING | places(tmp_path) | flags)[0], Silent())
    assert caught.value.fix


def test_critics_learn_from_stored_trees_too_but_never_more_than_from_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[int, int]] = {}
    plain = CriticLessons.jobs

    def watched(self: CriticLessons, labelled: Any) -> Any:
        before = {role: len(labelled.of(role).train) for role in ("value", "process", "outcome")}
        jobs = plain(self, labelled)
        seen.update({r: (n, len(labelled.of(r).train)) for r, n in before.items()})
        return jobs

    monkeypatch.setattr(CriticLessons, "jobs", watched)
    flags = {"critics.window": 2, "critics.steps": 2, "critics.samples": 4}
    run(tmp_path, **flags)
    assert all(before < after <= 2 * before for before, after in seen.values())
