"""`ratchet teach`: worked answers in, a policy that writes such answers out."""

import shlex
import sys
from pathlib import Path

from agent.cli.output import emit, figures, share, table
from agent.config.settings import Config
from agent.progress import make_progress
from agent.teach import Course, teach
from store.database import open_store


def run(config: Config, folder: Path, course: Course, as_json: bool) -> None:
    progress = make_progress(quiet=as_json)
    store = open_store(config.store)
    try:
        found = teach(config, folder, course, store, progress)
    finally:
        progress.close()
        store.close()
    rate = found.num_tokens / found.seconds if found.seconds else None
    if as_json:
        emit(
            {
                "path": str(found.checkpoint.path),
                "version": found.checkpoint.version,
                "parent": found.checkpoint.notes.get("parent"),
                "report": found.report,
                "before": figures(found.before),
                "after": figures(found.after),
                "seconds": found.seconds,
                "tokens_per_s": rate,
                "notes": found.notes,
                "seed": config.seed,
            }
        )
        return
    measured = [("before", found.before), ("after", found.after)]
    table(
        [
            {
                "held-out problems": name,
                "greedy [95 %]": share(e.num_correct, e.n, *e.interval),
                "n": e.n,
                "unanswered": e.num_unanswered,
                "cut": e.num_cut,
            }
            for name, e in measured
            if e is not None
        ]
    )
    steps, loss = found.report["num_steps"], found.report["last_loss"]
    took = (
        "before" if rate is None else f"in {found.seconds / 60:.1f} minutes, {rate:,.0f} tokens/s"
    )
    print(
        f"{steps} steps {took}, loss {found.report['first_loss']:.3f} -> {loss:.3f}",
        file=sys.stderr,
    )
    print(f"\n{found.checkpoint.path}: version {found.checkpoint.version}\n\nNext:")
    given = [
        *("--task", config.task, "--problems", config.problems, "--policy", str(folder)),
        *(("--held-out", config.held_out) if config.held_out else ()),
        *("--store", config.shown_store),
    ]
    print(f"  ratchet improve {shlex.join(given)} --dry-run")
