"""First critics and drafter for a policy that comes without: copies of its own weights."""

from pathlib import Path

import torch

from agent.checkpoints.checkpoint import verify_ref
from agent.checkpoints.model_refs import ModelRef
from agent.checkpoints.publish import publish
from agent.checkpoints.trained import Trained
from agent.checkpoints.weights import load_model
from agent.training.drafter import cut_drafter
from agent.training.job import Place
from critics.registry import CRITICS


def initial_models(policy_ref: ModelRef, place: Place) -> list[Trained]:
    """Publish a drafter (the policy's first half) and critics: with a scalar head that is zero, or
    as the policy itself where the critic is a language model.
    """
    torch.set_num_threads(place.threads)
    parent = verify_ref(policy_ref)
    policy = load_model(parent)
    models = {"drafter": cut_drafter(policy)} | {
        name: policy.as_critic() if kind.form == "head" else policy
        for name, kind in CRITICS.items()
    }
    made = []
    for role, model in models.items():
        notes = {"report": {}, "made_from": "policy"}
        child = publish(model, parent, Path(place.folder), role, notes)
        made.append(Trained.of(role, child, parent.version, {}))
    return made
