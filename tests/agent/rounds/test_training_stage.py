"""Which retrained critics a round goes on with."""

from typing import Any

import pytest

from agent.checkpoints.trained import Trained
from agent.rounds.training_stage import is_worth_having


@pytest.mark.parametrize(
    ("report", "is_kept"),
    [
        ({"parent_auc": 0.8, "auc": 0.8}, True),
        ({"parent_auc": 0.8, "auc": 0.79}, False),
        ({"parent_auc": 0.8, "auc": None}, False),
        ({"parent_auc": 0.8}, False),
        ({"parent_auc": None, "auc": 0.4}, True),
        ({}, True),
    ],
)
def test_a_retrained_critic_replaces_the_old_one_unless_it_ranks_worse_or_is_unmeasured(
    report: dict[str, Any], is_kept: bool
) -> None:
    trained = Trained("value", "v2", "/nowhere", "v1", 0, "", report)
    assert is_worth_having(trained) is is_kept
