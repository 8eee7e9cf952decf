"""First critics and drafter for a policy that comes without: copies of its own weights."""

from pathlib import Path

import torch

from agent.checkpoints.checkpoint import inspect_checkpoint, load_decoder
from agent.checkpoints.publish import publish
from agent.training.critics import critic_from_policy
from agent.training.drafter import cut_drafter
from agent.training.jobs import Place, Trained


def initial_models_job(policy_path: str, place: Place) -> list[Trained]:
    """Publish a drafter (the policy's first half), a value critic whose head is zero, and process
    and outcome critics that begin as the policy itself.
    """
    torch.set_num_threads(place.threads)
    parent = inspect_checkpoint(policy_path)
    policy = load_decoder(parent)
    folder = Path(place.folder)
    models = {
        "drafter": cut_drafter(policy),
        "value": critic_from_policy(policy, policy.arch),
        "process": policy,
        "outcome": policy,
    }
    made = []
    for role, model in models.items():
        child = publish(model, parent, folder, role, {"report": {}, "made_from": "policy"})
        made.append(
            Trained(role, child.version, str(child.path), parent.version, child.num_bytes, {})
        )
    return made
