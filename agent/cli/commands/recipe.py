"""`ratchet recipe openbezoar`: each step when it is done, then all of them."""

import sys
from pathlib import Path
from typing import Any

from agent.cli.output import emit, figures, share, table
from agent.config.settings import Config
from agent.progress import make_progress
from agent.recipes.openbezoar import OpenBezoar, RecipePlan, Step
from store.database import open_store


def run(config: Config, folder: Path, plan: RecipePlan, as_json: bool) -> None:
    progress = make_progress(quiet=as_json)
    store = open_store(config.store)
    steps: list[Step] = []
    try:
        for step in OpenBezoar(config, folder, plan, store, progress).run():
            steps.append(step)
            for line in _told(step):
                progress.say(line)
    finally:
        progress.close()
        store.close()
    if as_json:
        emit({"out": str(folder), "seed": config.seed, "steps": [_record(s) for s in steps]})
        return
    table([_row(step) for step in steps])
    last = next((s for s in reversed(steps) if not s.skipped), steps[0])
    print(f"\n{last.path}: version {last.version}", file=sys.stderr)


def _told(step: Step) -> list[str]:
    found = [f"{step.name}: {step.skipped}"] if step.skipped else []
    if step.refused:
        reasons = ", ".join(f"{num} {reason}" for reason, num in sorted(step.refused.items()))
        found.append(f"{step.name}: {step.num_rows} rows; refused: {reasons}")
    return found


def _row(step: Step) -> dict[str, Any]:
    found = step.evaluation
    is_trained = step.first_loss is not None and step.last_loss is not None
    return {
        "step": step.name,
        "rows": step.num_rows,
        "refused": sum((step.refused or {}).values()),
        "loss": f"{step.first_loss:.3f} -> {step.last_loss:.3f}" if is_trained else step.skipped,
        "greedy [95 %]": share(found.num_correct, found.n, *found.interval) if found else "",
        "version": step.version[:12],
    }


def _record(step: Step) -> dict[str, Any]:
    return {
        "step": step.name,
        "rows": step.num_rows,
        "skipped": step.skipped,
        "refused": step.refused or {},
        "version": step.version,
        "path": step.path,
        "first_loss": step.first_loss,
        "last_loss": step.last_loss,
        "greedy": figures(step.evaluation),
    }
