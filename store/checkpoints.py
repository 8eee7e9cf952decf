"""The rows of checkpoints: what was registered, from which parent, and whether it is whole."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from search.errors import NotFoundError
from store.database import now_us
from store.recording import add_event
from store.schema import CheckpointRow, Round, Run, SpeculationRow, TrainMetric
from store.states import CheckpointStatus, DraftSource, EventKind, Stage, role_of


@dataclass(frozen=True, slots=True)
class NewCheckpoint:
    """What is registered of a directory."""

    role: str
    version: str
    path: str
    """Absolute."""
    num_bytes: int
    manifest_sha: str
    report: Mapping[str, Any]
    parent: str | None = None
    curve: Sequence[tuple[int, float]] = ()
    """(step, loss) of the job that made it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The round and the dataset that a checkpoint came from."""

    round_id: int | None = None
    dataset_id: int | None = None


def find_checkpoint(session: Session, role: str, version: str) -> CheckpointRow | None:
    """The row of a version; `role` may be a place among a round's models (`role_of`)."""
    return session.scalars(
        select(CheckpointRow).where(
            CheckpointRow.role == role_of(role), CheckpointRow.version == version
        )
    ).one_or_none()


def checkpoints_of(session: Session, versions: Mapping[str, str]) -> dict[str, CheckpointRow]:
    """Role to row. Raises NotFoundError for a version that was never registered."""
    rows: dict[str, CheckpointRow] = {}
    for role, version in versions.items():
        row = find_checkpoint(session, role, version)
        if row is None:
            raise NotFoundError(f"the store knows no {role} {version!r}", "see `ratchet models`")
        rows[role] = row
    return rows


def register(session: Session, new: NewCheckpoint, origin: Origin = Origin()) -> CheckpointRow:
    """The row of a checkpoint, made unless it is there; one that was damaged is ready again.

    A parent that the store does not know is left out.
    """
    row = find_checkpoint(session, new.role, new.version)
    if row is not None:
        row.status, row.manifest_sha, row.path = (
            CheckpointStatus.READY,
            new.manifest_sha,
            new.path,
        )
    else:
        known = select(CheckpointRow.version).where(CheckpointRow.version == new.parent)
        row = CheckpointRow(
            role=role_of(new.role),
            version=new.version,
            path=new.path,
            parent_version=session.scalars(known).first() if new.parent else None,
            round_id=origin.round_id,
            dataset_id=origin.dataset_id,
            status=CheckpointStatus.READY,
            num_bytes=new.num_bytes,
            manifest_sha=new.manifest_sha,
            report=dict(new.report),
            created_ts=now_us(),
        )
        session.add(row)
        session.flush()
    for step, loss in new.curve:
        session.merge(TrainMetric(checkpoint_id=row.id, name="loss", step=step, value=loss))
    return row


def lineage(session: Session, role: str, versions: Iterable[str | None]) -> Iterator[CheckpointRow]:
    """Rows of these versions and of all their parents of the same role, each once."""
    seen: set[str] = set()
    for version in versions:
        while version is not None and version not in seen:
            seen.add(version)
            row = find_checkpoint(session, role, version)
            if row is None:
                break
            yield row
            version = row.parent_version


def note_damage(session: Session, run_id: int, causes: Mapping[int, str]) -> list[CheckpointRow]:
    """Write down which rows are damaged, by id and cause, and which are whole again (no cause).

    Returns the latter.
    """
    restored: list[CheckpointRow] = []
    for row_id, cause in causes.items():
        row = session.get_one(CheckpointRow, row_id)
        status = CheckpointStatus.QUARANTINED if cause else CheckpointStatus.READY
        if row.status == status:
            continue
        row.status = status
        kind = EventKind.CHECKPOINT_QUARANTINED if cause else EventKind.CHECKPOINT_RESTORED
        payload = {"role": row.role, "version": row.version, "cause": cause}
        add_event(session, run_id, kind, payload)
        if not cause:
            restored.append(row)
    return restored


def reject(session: Session, versions: Mapping[str, str]) -> None:
    """Mark candidates, by role, that no round of any run goes on with."""
    used: set[str] = set()
    for models, candidates, stage in session.execute(
        select(Round.models, Round.candidates, Round.stage)
    ):
        used.update(models.values())
        used.update((candidates or {}).values() if stage == Stage.PROMOTED else ())
    for role, version in versions.items():
        row = find_checkpoint(session, role, version)
        if row is not None and row.status == CheckpointStatus.READY and version not in used:
            row.status = CheckpointStatus.REJECTED


def rejected_before(session: Session, run_id: int, number: int) -> list[CheckpointRow]:
    """Rejected checkpoints that rounds of a run made before the round of this number."""
    return list(
        session.scalars(
            select(CheckpointRow)
            .join(Round, Round.id == CheckpointRow.round_id)
            .where(
                Round.run_id == run_id,
                Round.number < number,
                CheckpointRow.status == CheckpointStatus.REJECTED,
            )
            .order_by(CheckpointRow.id)
        )
    )


def with_rounds(session: Session) -> list[tuple[CheckpointRow, int | None, str | None]]:
    """All checkpoints, each with the number and the stage of the round that made it."""
    rows = session.execute(
        select(CheckpointRow, Round.number, Round.stage)
        .outerjoin(Round, Round.id == CheckpointRow.round_id)
        .order_by(CheckpointRow.id)
    )
    return [(row, number, stage) for row, number, stage in rows]


def of_run(session: Session, run: str, role: str) -> list[tuple[int, CheckpointRow]]:
    """(round, checkpoint) of a role that the rounds of a run made, oldest first."""
    rows = session.execute(
        select(Round.number, CheckpointRow)
        .join(CheckpointRow, CheckpointRow.round_id == Round.id)
        .join(Run, Run.id == Round.run_id)
        .where(Run.name == run, CheckpointRow.role == role)
        .order_by(Round.number, CheckpointRow.id)
    )
    return [(number, row) for number, row in rows]


def drafts_at_work(session: Session) -> list[SpeculationRow]:
    """What drafters' drafts came to, the newest report last."""
    return list(
        session.scalars(
            select(SpeculationRow)
            .where(SpeculationRow.source == DraftSource.MODEL, SpeculationRow.num_drafted > 0)
            .order_by(SpeculationRow.seen_ts)
        )
    )
