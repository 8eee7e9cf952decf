"""First critics and drafter for a policy that comes without: copies of its own weights."""

from pathlib import Path

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_ref
from agent.checkpoints.model_refs import ModelRef
from agent.checkpoints.publish import dtype_on_disk, publish
from agent.checkpoints.trained import Trained
from agent.checkpoints.weights import load_adapted, load_model
from agent.engine.memory import return_freed
from agent.networks.adapter_shape import AdapterShape
from agent.training.drafter import cut_drafter
from agent.training.job import Place
from critics.registry import CRITICS

FIRST_SEED = 0
"""Of adapters that have learned nothing yet."""


def initial_models(
    policy_ref: ModelRef, place: Place, tuned_layers: int = 0, lora_rank: int = 0
) -> list[Trained]:
    """Publish a drafter (the policy's first half) and critics: with a scalar head that is zero, or
    as the policy itself where the critic is a language model.

    With `tuned_layers` the blocks below the critics' last ones are one file on disk. With
    `lora_rank` all of them are adapters on the policy's base, which is held and written once.
    """
    torch.set_num_threads(place.threads)
    parent = verify_ref(policy_ref)
    dtype = dtype_on_disk(parent)  # written as they are
    if lora_rank:
        shape = parent.adapter or AdapterShape.of_rank(lora_rank)
        policy = load_adapted(parent, shape, FIRST_SEED, dtype)
    else:
        policy = load_model(parent, dtype)
        if policy.adapter is not None:
            policy.merge()
    made: dict[str, Checkpoint] = {}
    for role in ("drafter", *CRITICS):
        if role == "drafter":
            model = cut_drafter(policy)
        else:
            model = policy.as_critic() if CRITICS[role].form == "head" else policy
            if tuned_layers and not lora_rank:
                model.freeze(tuned_layers)
        notes = {"report": {}, "made_from": "policy"}
        folder, alike = Path(place.folder), list(made.values())
        made[role] = publish(model, parent, folder, role, notes, alike=alike)
    del policy, model
    return_freed()
    return [Trained.of(role, child, parent.version, {}) for role, child in made.items()]
