"""Adapters and their base made into whole weights, for programs that want those."""

import os
import shutil
import uuid
from pathlib import Path

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.model_refs import CHECKER, ROLES
from agent.checkpoints.publish import publish, sweep
from agent.checkpoints.weights import load_model
from search.errors import CheckpointError, UsageError
from store.disks import unwritable
from store.leases import owner_name


def merge_into(path: Path, folder: Path) -> Checkpoint:
    """Write what a directory of adapters computes to a new folder, in the type of its base.

    The folder appears when it is whole. Raises UsageError for a folder that is there,
    CheckpointError for a directory that has whole weights already, ResourceError.
    """
    if folder.exists():
        raise UsageError(f"{folder} is already there", "give a new folder, or remove it")
    checkpoint = verify_checkpoint(path)
    if checkpoint.adapter is None:
        raise CheckpointError(f"{path} has whole weights already", "use it as it is")
    sweep(folder.parent)
    model = load_model(checkpoint)
    model.merge()
    scratch = folder.parent / f".writing {owner_name()} {uuid.uuid4().hex}"
    role = str(checkpoint.notes.get("role", "policy"))
    if role not in (*ROLES, CHECKER):
        raise CheckpointError(
            f"ratchet.json of {path} has role {role!r:.80}", f"make it one of: {', '.join(ROLES)}"
        )
    notes = {name: value for name, value in checkpoint.notes.items() if name != "base"}
    try:
        made = publish(model, checkpoint, scratch, role, notes)
        os.replace(made.path, folder)
    except OSError as error:
        num_bytes = checkpoint.whole.num_bytes
        raise unwritable(folder.parent, "the checkpoint", error, "DIR", num_bytes) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return verify_checkpoint(folder)
