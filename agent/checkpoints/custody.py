"""Checkpoints in a run's keeping: which ones its next round takes, what becomes of damaged ones.

A checkpoint is used only if its directory is whole, by manifest and digest. One that is not is
marked as quarantined, and the run goes on with what it had before: for each role the versions of
earlier rounds, newest first, then the parents of these.
"""

from collections.abc import Callable, Mapping, Sequence

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.model_refs import ModelRef
from agent.checkpoints.succession import models_after
from agent.checkpoints.trained import Trained
from search.errors import CheckpointError
from store.checkpoints import (
    NewCheckpoint,
    checkpoints_of,
    find_checkpoint,
    lineage,
    note_damage,
)
from store.database import Store
from store.rounds import rounds_of
from store.schema import CheckpointRow
from store.states import is_voter, without_voters

Say = Callable[[str], None]


def as_new(role: str, checkpoint: Checkpoint, parent: str | None = None) -> NewCheckpoint:
    """What is registered of a checkpoint that lies on disk."""
    return NewCheckpoint(
        role,
        checkpoint.version,
        str(checkpoint.path.resolve()),
        checkpoint.num_bytes,
        checkpoint.manifest_sha,
        checkpoint.report,
        parent,
    )


def trained_as_new(trained: Trained) -> NewCheckpoint:
    """What is registered of a training job's result. It was hashed when it was published."""
    return NewCheckpoint(
        trained.role,
        trained.version,
        trained.path,
        trained.num_bytes,
        trained.manifest_sha,
        trained.report,
        trained.parent_version,
        trained.curve,
    )


def stored_refs(store: Store, versions: Mapping[str, str]) -> dict[str, ModelRef]:
    """References to registered versions by role, their headers read.

    Raises NotFoundError for one that was never registered, CheckpointError for one that is gone.
    """
    with store.session() as session:
        rows = checkpoints_of(session, versions)
    return {role: ModelRef.at(role, row.version, row.path) for role, row in rows.items()}


def current_models(
    store: Store, run_id: int, say: Say, is_written: bool = True
) -> dict[str, ModelRef] | None:
    """Role to weights after the run's last round; None before the first one.

    What is found out about checkpoints is written to the store if `is_written`. Raises
    CheckpointError when no version of a role is whole.
    """
    with store.session() as session:
        rounds = rounds_of(session, run_id)
        if not rounds:
            return None
        last = rounds[0]
        lines = {
            role: list(lineage(session, role, [version, *(r.models.get(role) for r in rounds)]))
            for role, version in models_after(last.stage, last.models, last.candidates).items()
        }
    # Hashing takes long and needs no transaction: the lease must be renewed meanwhile.
    causes: dict[int, str] = {}
    try:
        found = {
            place: ref
            for place, rows in lines.items()
            if is_voter(place) and rows and (ref := _voter(place, rows[0], causes, say))
        }
        return found | {
            role: _first_sound(role, rows, causes, say)
            for role, rows in without_voters(lines).items()
        }
    finally:
        if is_written:
            _note(store, run_id, causes, say)


def damaged(store: Store, run_id: int, versions: Mapping[str, str], say: Say) -> list[str]:
    """Roles whose version is not whole on disk; these are quarantined."""
    with store.session() as session:
        rows = {role: find_checkpoint(session, role, v) for role, v in versions.items()}
    causes = {row.id: fault_of(row) for row in rows.values() if row is not None}
    _note(store, run_id, causes, say)
    return [role for role, row in rows.items() if row is None or causes[row.id]]


def _voter(place: str, row: CheckpointRow, causes: dict[int, str], say: Say) -> ModelRef | None:
    """A voter that is whole; None for one that is not, for an older policy would only repeat the
    errors of the one that it voted beside."""
    causes[row.id] = fault_of(row)
    if causes[row.id]:
        say(f"warning: {causes[row.id]}; it votes no more")
        return None
    return ModelRef.at(place, row.version, row.path)


def _first_sound(
    role: str, rows: Sequence[CheckpointRow], causes: dict[int, str], say: Say
) -> ModelRef:
    for row in rows:
        causes[row.id] = fault_of(row)
        if not causes[row.id]:
            if row is not rows[0]:
                say(f"warning: {causes[rows[0].id]}")
                say(f"warning: going on with the {role} {row.version}, not {rows[0].version}")
            return ModelRef.at(role, row.version, row.path)
    cause = f": {causes[rows[0].id]}" if rows else ""
    raise CheckpointError(
        f"no {role} of the run is whole on disk any more{cause}",
        "copy its directory back (`ratchet models --json` has the path), or start with --run NAME",
    )


def _note(store: Store, run_id: int, causes: Mapping[int, str], say: Say) -> None:
    with store.session() as session:
        for row in note_damage(session, run_id, causes):
            say(f"the {row.role} {row.version} is whole again")


def fault_of(row: CheckpointRow) -> str:
    """Why a registered checkpoint may not be used; empty when it is what was registered."""
    try:
        found = verify_checkpoint(row.path)
    except CheckpointError as error:
        return error.message
    except OSError as error:  # a disk that fails is damage, too
        return f"checkpoint {row.path} cannot be read: {error}"
    if found.version != row.version:
        return f"the weights in {row.path} are {found.version}, not {row.version}"
    if row.manifest_sha and found.manifest_sha != row.manifest_sha:
        return f"the manifest of {row.path} is missing, or not the one that was registered"
    return ""
