"""`ratchet models`: checkpoints, their lineage and their measurements."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from agent.cli.output import emit, table
from agent.config.load import Config
from store.database import open_store
from store.schema import CheckpointRow, Round, SpeculationRow


def run(config: Config, as_json: bool) -> None:
    store = open_store(config.store, must_exist=True)
    with store.session() as session:
        found = session.execute(
            select(CheckpointRow, Round.number, Round.stage)
            .outerjoin(Round, Round.id == CheckpointRow.round_id)
            .order_by(CheckpointRow.id)
        ).all()
        drafts = _drafts(session)
    rows = [
        {
            "role": c.role,
            "version": c.version,
            "parent": c.parent_version,
            "round": number,
            "verdict": stage,
            "bytes": c.num_bytes,
            "path": c.path,
            "measured": _measured(c.report) + drafts.get(c.version, ""),
        }
        for c, number, stage in found
    ]
    if as_json:
        emit([row | {"report": c.report} for row, (c, _, _) in zip(rows, found, strict=True)])
    else:
        table([{k: v for k, v in row.items() if k != "path"} for row in rows])


def _drafts(session: Session) -> dict[str, str]:
    """Drafter version to the acceptance that its policy last measured at work."""
    rows = session.scalars(
        select(SpeculationRow)
        .where(SpeculationRow.source == "model", SpeculationRow.num_drafted > 0)
        .order_by(SpeculationRow.seen_ts)
    )
    return {
        row.drafter_version: f", at work {row.acceptance:.3f} "
        f"({row.accepted_length:.2f} tokens a draft)"
        for row in rows
    }


def _measured(report: dict[str, Any]) -> str:
    names = {"auc": "AUC", "brier": "Brier", "acceptance": "acceptance", "last_loss": "loss"}
    return ", ".join(
        f"{label} {report[key]:.3f}" for key, label in names.items() if report.get(key) is not None
    )
