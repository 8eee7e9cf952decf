"""Which checkpoints a run uses: the embedded ones, a directory, or what earlier rounds trained."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from agent.checkpoints.checkpoint import Checkpoint, inspect_checkpoint
from agent.config.load import Config
from agent.hosting.model_host import ROLES, ModelRef
from agent.search_models import CRITICS, ModelSet
from agent.tasks.registry import embedded_path
from agent.training.critics import read_calibration
from agent.training.jobs import Trained
from search.errors import CheckpointError, NotFoundError
from store.database import now_us
from store.schema import CheckpointRow, TrainMetric


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
            found[role] = inspect_checkpoint(path)
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
    checkpoint = inspect_checkpoint(path)
    role = checkpoint.notes.get("role", "policy")
    if checkpoint.is_critic or role in CRITICS:
        raise CheckpointError(
            f"{path} is a critic ({checkpoint.config['architectures'][0]}, role {role!r}), not a "
            "policy",
            "give a causal language model",
        )
    return checkpoint


def as_ref(role: str, checkpoint: Checkpoint) -> ModelRef:
    return ModelRef(role, checkpoint.version, str(checkpoint.path.resolve()))


def model_set(refs: Mapping[str, ModelRef]) -> ModelSet:
    """The models with each critic's calibration and AUC read from its notes."""
    notes = {
        role: inspect_checkpoint(ref.path).notes for role, ref in refs.items() if role in CRITICS
    }
    aucs = {role: n.get("report", {}).get("auc") for role, n in notes.items()}
    return ModelSet(
        dict(refs),
        {role: read_calibration(n) for role, n in notes.items()},
        {role: float(auc) for role, auc in aucs.items() if auc is not None},
    )


def register(
    session: Session,
    role: str,
    checkpoint: Checkpoint,
    parent: str | None = None,
    round_id: int | None = None,
    dataset_id: int | None = None,
) -> CheckpointRow:
    """The row of a checkpoint, new if it is not known yet; one that was damaged is ready again."""
    known = session.scalars(
        select(CheckpointRow).where(
            CheckpointRow.role == role, CheckpointRow.version == checkpoint.version
        )
    ).one_or_none()
    if known is not None:
        known.status, known.manifest_sha = "ready", checkpoint.manifest_sha
        known.path = str(checkpoint.path.resolve())
        return known
    row = CheckpointRow(
        role=role,
        version=checkpoint.version,
        path=str(checkpoint.path.resolve()),
        parent_version=parent,
        round_id=round_id,
        dataset_id=dataset_id,
        status="ready",
        num_bytes=checkpoint.num_bytes,
        manifest_sha=checkpoint.manifest_sha,
        report=checkpoint.notes.get("report", {}),
        created_ts=now_us(),
    )
    session.add(row)
    session.flush()
    return row


def register_trained(
    session: Session, trained: Trained, round_id: int | None, dataset_id: int | None
) -> None:
    checkpoint = inspect_checkpoint(trained.path)
    parent = session.scalars(
        select(CheckpointRow.version).where(CheckpointRow.version == trained.parent_version)
    ).first()
    row = register(session, trained.role, checkpoint, parent, round_id, dataset_id)
    for step, loss in trained.curve:
        session.merge(TrainMetric(checkpoint_id=row.id, name="loss", step=step, value=loss))


def refs_of(session: Session, versions: Mapping[str, str]) -> dict[str, ModelRef]:
    """ModelRefs for role to version. Raises NotFoundError for one that was never registered."""
    refs: dict[str, ModelRef] = {}
    for role, version in versions.items():
        row = session.scalars(
            select(CheckpointRow).where(
                CheckpointRow.role == role, CheckpointRow.version == version
            )
        ).one_or_none()
        if row is None:
            raise NotFoundError(f"the store knows no {role} {version!r}", "see `ratchet models`")
        refs[role] = ModelRef(role, row.version, row.path)
    return refs
