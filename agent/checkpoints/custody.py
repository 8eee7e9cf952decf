"""Checkpoints in a run's keeping: which ones its next round takes, what becomes of damaged ones.

A checkpoint is used only if its directory is whole, by manifest and digest. One that is not is
marked as quarantined, and the run goes on with what it had before: for each role the versions of
earlier rounds, newest first, then the parents of these.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from agent.checkpoints.checkpoint import inspect_checkpoint
from agent.hosting.model_host import CRITIC_ROLES, ModelRef
from search.errors import CheckpointError
from store.database import Store
from store.recording import add_event
from store.schema import CheckpointRow, Round

Say = Callable[[str], None]


def models_after(row: Round) -> dict[str, str]:
    """Role to version that a round leaves behind.

    A promoted round hands on all its candidates. One that kept its policy hands on its critics,
    which learned from more texts, but neither policy nor drafter.
    """
    versions: dict[str, Any] = dict(row.models)
    candidates = row.candidates or {}
    if row.stage == "promoted":
        versions |= candidates
    elif row.stage == "kept":
        versions |= {r: v for r, v in candidates.items() if r in CRITIC_ROLES}
    return versions


def current_models(
    store: Store, run_id: int, say: Say, is_written: bool = True
) -> dict[str, ModelRef] | None:
    """Role to weights after the run's last round; None before the first one.

    What is found out about checkpoints is written to the store if `is_written`. Raises
    CheckpointError when no version of a role is whole.
    """
    with store.session() as session:
        rounds = session.scalars(
            select(Round).where(Round.run_id == run_id).order_by(Round.number.desc())
        ).all()
        if not rounds:
            return None
        lines = {
            role: list(_line(session, role, [version, *(r.models.get(role) for r in rounds)]))
            for role, version in models_after(rounds[0]).items()
        }
    # Hashing takes long and needs no transaction: the lease must be renewed meanwhile.
    causes: dict[int, str] = {}
    try:
        return {role: _first_sound(role, rows, causes, say) for role, rows in lines.items()}
    finally:
        if is_written:
            _note(store, run_id, causes, say)


def damaged(store: Store, run_id: int, versions: Mapping[str, str], say: Say) -> list[str]:
    """Roles whose version is not whole on disk; these are quarantined."""
    with store.session() as session:
        rows = {role: _row(session, role, version) for role, version in versions.items()}
    causes = {row.id: fault_of(row) for row in rows.values() if row is not None}
    _note(store, run_id, causes, say)
    return [role for role, row in rows.items() if row is None or causes[row.id]]


def _first_sound(
    role: str, rows: Sequence[CheckpointRow], causes: dict[int, str], say: Say
) -> ModelRef:
    for row in rows:
        causes[row.id] = fault_of(row)
        if not causes[row.id]:
            if row is not rows[0]:
                say(f"warning: {causes[rows[0].id]}")
                say(f"warning: going on with the {role} {row.version}, not {rows[0].version}")
            return ModelRef(role, row.version, row.path)
    raise CheckpointError(
        f"no {role} of the run is whole on disk any more",
        "copy its directory back (`ratchet models --json` has the path), or start with --run NAME",
    )


def _line(session: Session, role: str, versions: list[str | None]) -> Iterator[CheckpointRow]:
    """Rows of these versions and of all their parents of the same role, each once."""
    seen: set[str] = set()
    for version in versions:
        while version is not None and version not in seen:
            seen.add(version)
            row = _row(session, role, version)
            if row is None:
                break
            yield row
            version = row.parent_version


def _row(session: Session, role: str, version: str) -> CheckpointRow | None:
    return session.scalars(
        select(CheckpointRow).where(CheckpointRow.role == role, CheckpointRow.version == version)
    ).one_or_none()


def _note(store: Store, run_id: int, causes: Mapping[int, str], say: Say) -> None:
    """Write down which checkpoints are damaged, and which are whole again."""
    with store.session() as session:
        for row_id, cause in causes.items():
            row = session.get_one(CheckpointRow, row_id)
            status = "quarantined" if cause else "ready"
            if row.status == status:
                continue
            row.status = status
            kind = "checkpoint-quarantined" if cause else "checkpoint-restored"
            payload = {"role": row.role, "version": row.version, "cause": cause}
            add_event(session, run_id, kind, payload)
            if not cause:
                say(f"the {row.role} {row.version} is whole again")


def fault_of(row: CheckpointRow) -> str:
    """Why a registered checkpoint may not be used; empty when it is what was registered."""
    try:
        found = inspect_checkpoint(Path(row.path))
    except CheckpointError as error:
        return error.message
    except OSError as error:  # a disk that fails is damage, too
        return f"checkpoint {row.path} cannot be read: {error}"
    if found.version != row.version:
        return f"the weights in {row.path} are {found.version}, not {row.version}"
    if row.manifest_sha and found.manifest_sha != row.manifest_sha:
        return f"the manifest of {row.path} is missing, or not the one that was registered"
    return ""
