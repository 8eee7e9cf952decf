"""A run whose policy is of another family goes through a round like any other."""

from pathlib import Path

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from store.check import check_store
from store.database import open_store
from tests.agent.networks.test_megalodon import written


def test_a_recurrent_policy_goes_through_a_round(tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", 3)
    config, _ = load_config(
        {
            "policy": str(policy),
            "hosting.hosting": "inline",
            "store": f"sqlite:///{tmp_path}/s.db",
            "checkpoints": f"{tmp_path}/checkpoints",
            "problems_per_round": 6,
            "num_seeds": 12,
            "critics.num_labelled": 6,
            "critics.steps": 2,
            "training.num_steps": 2,
            "selection.must_answer": False,
            "selection.must_be_sound": False,
            "evaluation.num_problems": 12,
            "evaluation.num_search_problems": 1,
            "hosting.text_tokens": 24,
        }
    )
    with Improver(config, Silent()).started() as improver:
        outcome = improver.run_round()
        refs = improver.models
    assert outcome.stage in ("promoted", "kept")
    # Drafter and critics were begun from the policy, and are of its family.
    assert {verify_checkpoint(Path(r.path)).architecture.model_type for r in refs.values()} == {
        "megalodon"
    }
    assert {"policy", "drafter", "value", "process", "outcome"} <= set(refs)
    store = open_store(config.store)
    assert not any(check_store(store).values())
    store.close()
