"""`ratchet models`: checkpoints, their lineage and their measurements."""

from pathlib import Path
from typing import Any

from agent.checkpoints.succession import models_after
from agent.cli.output import emit, table
from agent.config.settings import Config
from store.checkpoints import drafts_at_work, with_rounds
from store.database import Session, read_store
from store.rounds import last_round
from store.runs import all_runs
from store.schema import CheckpointRow, SpeculationRow
from store.states import role_of


def run(config: Config, as_json: bool) -> None:
    store = read_store(config.store)
    with store.session() as session:
        found = with_rounds(session)
        in_force = _in_force(session)
        drafts = {row.drafter_version: _at_work(row) for row in drafts_at_work(session)}
    rows = [
        {
            "role": c.role,
            "version": c.version,
            "parent": c.parent_version,
            "round": number,
            "verdict": stage,
            "status": "in force" if (c.role, c.version) in in_force else _status(c),
            "bytes": c.num_bytes,
            "path": c.path,
            "measured": _measured(c.report) + drafts.get(c.version, ""),
        }
        for c, number, stage in found
    ]
    if as_json:
        emit([row | {"report": c.report} for row, (c, _, _) in zip(rows, found, strict=True)])
    else:
        hidden = ("path", "verdict", "bytes")
        table([{k: v for k, v in row.items() if k not in hidden} for row in rows])


def _in_force(session: Session) -> set[tuple[str, str]]:
    """Role and version of what the next round of any run begins with."""
    found: set[tuple[str, str]] = set()
    for run in all_runs(session):
        last = last_round(session, run.id)
        if last is not None:
            left = models_after(last.stage, last.models, last.candidates)
            found.update((role_of(place), version) for place, version in left.items())
    return found


def _status(row: CheckpointRow) -> str:
    """`ready` says that it was in force before, or may be again."""
    is_gone = not Path(row.path).is_dir()
    return f"{row.status}, removed" if is_gone else str(row.status)


def _at_work(row: SpeculationRow) -> str:
    """The acceptance that a drafter's policy last measured."""
    return f", at work {row.acceptance:.3f} ({row.accepted_length:.2f} tokens a draft)"


def _measured(report: dict[str, Any]) -> str:
    names = {"auc": "AUC", "brier": "Brier", "acceptance": "acceptance", "last_loss": "loss"}
    return ", ".join(
        f"{label} {report[key]:.3f}" for key, label in names.items() if report.get(key) is not None
    )
