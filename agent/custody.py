"""Checkpoints in a run's keeping: which ones its next round takes, what becomes of damaged ones.

A checkpoint is used only if its directory is whole, by manifest and digest. One that is not is
marked as quarantined, and the run goes on with what it had before: for each role the versions of
earlier rounds, newest first, then the parents of these.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from agent.engine.checkpoint import inspect_checkpoint
from agent.engine.hosts import ModelRef
from agent.teacher import CRITIC_ROLES
from search.errors import CheckpointError
from store.database import Store
from store.recording import add_event
from store.schema import CheckpointRow, Round

Say = Callable[[str], None]


def current_models(
    store: Store, run_id: int, say: Say = lambda text: None
) -> dict[str, ModelRef] | None:
    """Role to weights after the run's last round; None before the first one.

    A promoted round hands on all its candidates. One that kept its policy hands on its critics,
    which learned from more texts, but neither policy nor drafter. Raises CheckpointError when no
    version of a role is whole.
    """
    with store.session() as session:
        rounds = session.scalars(
            select(Round).where(Round.run_id == run_id).order_by(Round.number.desc())
        ).all()
        if not rounds:
            return None
        last = rounds[0]
        versions: dict[str, Any] = dict(last.models)
        candidates = last.candidates or {}
        if last.stage == "promoted":
            versions |= candidates
        elif last.stage == "kept":
            versions |= {r: v for r, v in candidates.items() if r in CRITIC_ROLES}
        earlier = {role: [r.models.get(role) for r in rounds] for role in versions}
        return {
            role: _first_sound(session, run_id, role, [version, *earlier[role]], say)
            for role, version in versions.items()
        }


def damaged(
    store: Store, run_id: int, versions: dict[str, str], say: Say = lambda text: None
) -> list[str]:
    """Roles whose version is not whole on disk; these are quarantined."""
    with store.session() as session:
        return [
            role
            for role, version in versions.items()
            if not _is_sound(session, run_id, _row(session, role, version), say)
        ]


def _first_sound(
    session: Session, run_id: int, role: str, versions: list[str | None], say: Say
) -> ModelRef:
    wanted = versions[0]
    for row in _line(session, role, versions):
        if _is_sound(session, run_id, row, say):
            if row.version != wanted:
                say(f"warning: going on with the {role} {row.version} instead of {wanted}")
            return ModelRef(role, row.version, row.path)
    raise CheckpointError(
        f"no {role} of the run is whole on disk any more; the last one was {wanted}",
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


def _is_sound(session: Session, run_id: int, row: CheckpointRow | None, say: Say) -> bool:
    """Compare a checkpoint with what was registered, and note it when that changed."""
    if row is None:
        return False
    cause = fault_of(row)
    status = "quarantined" if cause else "ready"
    if row.status != status:
        row.status = status
        kind = "checkpoint-quarantined" if cause else "checkpoint-restored"
        payload = {"role": row.role, "version": row.version, "cause": cause}
        add_event(session, run_id, kind, payload)
        say(f"warning: {cause}" if cause else f"{row.role} {row.version} is whole again")
    return not cause


def fault_of(row: CheckpointRow) -> str:
    """Why a registered checkpoint may not be used; empty when it is what was registered."""
    try:
        found = inspect_checkpoint(Path(row.path))
    except CheckpointError as error:
        return error.message
    if found.version != row.version:
        return f"the weights in {row.path} are {found.version}, not {row.version}"
    if row.manifest_sha and found.manifest_sha != row.manifest_sha:
        return f"the manifest of {row.path} is missing, or not the one that was registered"
    return ""
