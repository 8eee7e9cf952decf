"""`ratchet models`: checkpoints, their lineage and their measurements."""

from typing import Any

from agent.cli.output import emit, table
from agent.config.settings import Config
from store.checkpoints import drafts_at_work, with_rounds
from store.database import open_store
from store.schema import SpeculationRow


def run(config: Config, as_json: bool) -> None:
    store = open_store(config.store, must_exist=True)
    with store.session() as session:
        found = with_rounds(session)
        drafts = {row.drafter_version: _at_work(row) for row in drafts_at_work(session)}
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


def _at_work(row: SpeculationRow) -> str:
    """The acceptance that a drafter's policy last measured."""
    return f", at work {row.acceptance:.3f} ({row.accepted_length:.2f} tokens a draft)"


def _measured(report: dict[str, Any]) -> str:
    names = {"auc": "AUC", "brier": "Brier", "acceptance": "acceptance", "last_loss": "loss"}
    return ", ".join(
        f"{label} {report[key]:.3f}" for key, label in names.items() if report.get(key) is not None
    )
