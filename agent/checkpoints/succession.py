"""Which models follow a round: the one place where a promotion takes effect."""

from collections.abc import Mapping
from typing import Any

from agent.checkpoints.model_refs import CRITIC_ROLES
from store.states import Stage, without_voters


def models_after(
    stage: str, models: Mapping[str, Any], candidates: Mapping[str, Any] | None
) -> dict[str, str]:
    """Role to version that a round leaves behind, given its models and what it trained.

    A promoted round hands on all its candidates, and no older voter: one that is worse than the
    policy outvotes it where it is right. One that kept its policy hands on its critics, which
    learned from more texts, but neither policies nor drafter. A failed one hands on what it began
    with.
    """
    new = candidates or {}
    if stage == Stage.PROMOTED:
        return {**without_voters(models), **new}
    if stage == Stage.KEPT:
        return {**models, **{r: v for r, v in new.items() if r in CRITIC_ROLES}}
    return dict(models)
