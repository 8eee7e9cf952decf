"""The models that a run begins with: the embedded ones, a bundle, or a policy of the user's."""

from pathlib import Path

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.embedded import embedded_path
from agent.checkpoints.model_refs import CRITIC_ROLES, ROLES
from agent.config.settings import Config
from search.errors import CheckpointError


def base_checkpoints(config: Config) -> dict[str, Checkpoint]:
    """Role to checkpoint, as far as they exist before the first round; nothing is loaded.

    A policy directory of the user's has no critics and no drafter yet: they are made from it.
    """
    if config.policy:
        return {"policy": policy_at(Path(config.policy).expanduser())}
    found: dict[str, Checkpoint] = {}
    for role in ROLES:
        path = (
            Path(config.bundle).expanduser() / role
            if config.bundle
            else embedded_path(config.task, role)
        )
        if path is not None and (not config.bundle or path.is_dir()):
            found[role] = verify_checkpoint(path)
    if config.bundle and not set(ROLES) <= found.keys():
        missing = sorted(set(ROLES) - found.keys())
        raise CheckpointError(
            f"bundle {config.bundle!r} has no {missing[0]!r}",
            "name a folder that scripts.build_embedded made, or a policy with --policy DIR",
        )
    if "policy" not in found:
        raise CheckpointError(
            f"task {config.task!r} has no embedded policy", "name a checkpoint with --policy DIR"
        )
    return found


def policy_at(path: Path) -> Checkpoint:
    """A policy of the user's. Raises CheckpointError for anything else."""
    checkpoint = verify_checkpoint(path)
    role = checkpoint.notes.get("role", "policy")
    if checkpoint.is_critic or role in CRITIC_ROLES:
        raise CheckpointError(
            f"{path} is a critic ({checkpoint.config['architectures'][0]}, role {role!r}), not a "
            "policy",
            "give a causal language model",
        )
    return checkpoint
