"""A run in one picture: accuracy by round, calibration of each critic, drafts, value of search."""

import contextlib
import os
from pathlib import Path
from typing import Any

from agent.checkpoints.model_refs import CRITIC_ROLES
from agent.reports.compare_rounds import Key, measured_of, models_by_round
from search.errors import UsageError
from store.checkpoints import of_run
from store.database import Session, Store
from store.disks import unwritable
from store.inspection import ask_question


def plot_run(store: Store, run: str, path: Path) -> None:
    """Write a PNG, SVG or PDF, by the name's ending. Raises UsageError and ResourceError."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UsageError("pictures need matplotlib", "pip install 'ratchet-llm[plots]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    if path.suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(
            f"{str(path)!r} ends in none of .png, .svg, .pdf", "name the file like one"
        )
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8))
    with store.session() as session:
        _accuracy(panels[0][0], session, models_by_round(session, run))
        _calibration(panels[0][1], session, run)
        _acceptance(panels[1][0], session, run)
    _budget(panels[1][1], store, run)
    figure.suptitle(f"run {run}")
    figure.tight_layout()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(beside, format=path.suffix[1:])
        os.replace(beside, path)
    except OSError as error:
        raise unwritable(path, "the picture", error, "--out") from error
    finally:
        pyplot.close(figure)
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _accuracy(axes: Any, session: Session, models: dict[int, dict[str, str]]) -> None:
    """Held-out accuracy after each round, with 95 % intervals, on the problems measured most."""
    found = {number: measured_of(session, refs) for number, refs in models.items()}
    for mode in ("greedy", "search"):
        counts: dict[Key, int] = {}
        for key in (k for rows in found.values() for k in rows if k[0] == mode):
            counts[key] = counts.get(key, 0) + 1
        if not counts:
            continue
        often = max(counts, key=lambda key: counts[key])
        points = [
            (number, rows[often].num_correct / rows[often].n, rows[often].low, rows[often].high)
            for number, rows in found.items()
            if often in rows
        ]
        if points:
            numbers, shares, lows, highs = zip(*points, strict=True)
            below = [max(0.0, s - low) for s, low in zip(shares, lows, strict=True)]
            above = [max(0.0, high - s) for s, high in zip(shares, highs, strict=True)]
            axes.errorbar(numbers, shares, yerr=(below, above), marker="o", capsize=3, label=mode)
    axes.set(title="held-out accuracy", xlabel="after round", ylabel="share right", ylim=(0, 1.02))
    axes.set_xticks(sorted(models))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _calibration(axes: Any, session: Session, run: str) -> None:
    """Reliability of the newest measured version of each critic; on the diagonal it is honest."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for role in CRITIC_ROLES:
        rows = [row for _, row in reversed(of_run(session, run, role))]
        measured = (r.report["reliability"] for r in rows if r.report.get("reliability"))
        bins: list[dict[str, float]] = next(measured, [])
        if bins:
            axes.plot([b["score"] for b in bins], [b["good"] for b in bins], "o-", label=role)
    axes.set(title="critics", xlabel="mean score", ylabel="share good", xlim=(0, 1), ylim=(0, 1))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _acceptance(axes: Any, session: Session, run: str) -> None:
    """What each round's drafter expects to be accepted, on held-out texts."""
    rows = [(number, row.report) for number, row in of_run(session, run, "drafter")]
    points = [(n, r["acceptance"]) for n, r in rows if r.get("acceptance") is not None]
    if points:
        axes.plot(*zip(*points, strict=True), "o-")
        axes.set_xticks([n for n, _ in points])
    axes.set(title="drafts", xlabel="round", ylabel="expected acceptance", ylim=(0, 1.02))


def _budget(axes: Any, store: Store, run: str) -> None:
    """Mean value backed up by the n-th simulation of the last round's searches."""
    answer = ask_question(store, "budget", {"run": run}, 10_000, 60.0)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    for name, label in (("mean_where_right", "right in the end"), ("mean_where_wrong", "wrong")):
        points = [(r["simulation"], r[name]) for r in rows if r[name] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", label=label)
    axes.set(
        title="searches of the last round", xlabel="simulation", ylabel="mean value", ylim=(0, 1.02)
    )
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
