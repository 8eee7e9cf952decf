"""Real rows through a whole round: a chat model, its template, and a held-out file of its own."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from agent.checkpoints.checkpoint import verify_checkpoint
from store.database import open_store
from store.schema import EvaluationItem, HeldOutProblem, ProblemRow, SearchRow, TrajectoryRow
from tests.agent.chat import write_chat_model
from tests.agent.rounds.small import SMALL, improve, places

SHARED = Path(__file__).parent.parent.parent.parent.parent / "shared"
TRAIN, TEST = SHARED / "data/gsm8k/train.jsonl", SHARED / "data/gsm8k/test.jsonl"
CHAT = SMALL | {
    "task": "jsonl",
    "selection.min_precision": 0,  # a random model is never right
    "prompt.style": "chat",
    "prompt.system": "You are a careful teacher.",
    "problems_per_round": 8,
    "num_seeds": 30,
    "evaluation.num_problems": None,
    "evaluation.num_search_problems": 2,
    # Long and warm enough for a random model to end some of its texts.
    "hosting.text_tokens": 100,
    "search.num_rollouts": 4,
    "search.rollout_temperature": 1.0,
    "search.max_tokens": 5000,
}


@pytest.mark.round
def test_a_chat_model_goes_through_a_round_on_gsm8k_with_its_own_test_split(
    tmp_path: Path,
) -> None:
    """Nobody expects a random model to be right. All 1,319 held-out problems are asked, stored with
    the texts written for them, and none of them is searched or learned from."""
    if not TEST.is_file():
        pytest.skip(f"GSM8K is not at {TEST}")
    model = write_chat_model(tmp_path / "model", num_hidden_layers=1)
    small = CHAT | {"hosting.text_tokens": 24, "search.max_tokens": 1500}
    done = improve(tmp_path, model, **small, problems=str(TRAIN), held_out=str(TEST))
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rounds"]
    assert row["stage"] in ("promoted", "kept")
    store = open_store(places(tmp_path)["store"])
    with store.session() as session:
        searched = set(session.scalars(select(ProblemRow.key)))
        prompts = session.scalars(select(SearchRow.id)).all()
        held_out = {p.key: p for p in session.scalars(select(HeldOutProblem))}
        items = session.scalars(select(EvaluationItem)).all()
    assert len(prompts) == 8
    assert row["verdict"]["n"] == len(held_out) == 1319
    assert not searched & held_out.keys()
    assert {i.problem_key for i in items} == held_out.keys()
    assert all(p.answer for p in held_out.values())


@pytest.mark.round
def test_a_published_chat_model_stays_one(tmp_path: Path) -> None:
    rows = [
        {"question": f"Ann has {i} cats and buys 3. How many?", "answer": f"{i}+3\n#### {i + 3}"}
        for i in range(120)
    ]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = write_chat_model(tmp_path / "model")
    flags = CHAT | {"problems": str(train), "evaluation.num_problems": 8, "checkpoints.keep": 1}
    done = improve(tmp_path, model, **flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rounds"]
    assert row["verdict"]["n"] == 8
    child = verify_checkpoint(next((tmp_path / "checkpoints").glob("policy-*")))
    for name in ("chat_template.jinja", "LICENSE", "generation_config.json", "tokenizer.json"):
        assert (child.path / name).read_bytes() == (model / name).read_bytes()
    assert child.config["dtype"] == "bfloat16"
    store = open_store(places(tmp_path)["store"])
    with store.session() as session:
        found = session.scalars(select(TrajectoryRow)).all()
    assert found and all("".join(s["text"] for s in t.steps["steps"]) == t.text for t in found)
