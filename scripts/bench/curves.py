"""Accuracy over tokens read as a picture."""

import json
from collections.abc import Sequence
from pathlib import Path

from scripts.bench.report import Row

COLOURS = {
    "search": "black",
    "coverage_of_search": "silver",
    "greedy": "tab:blue",
    "majority": "tab:orange",
    "best_of_n": "tab:green",
    "orm_vote": "tab:red",
    "line_of_play": "tab:purple",
    "prm_beam": "tab:brown",
    "tool_filtered": "tab:cyan",
    "enumerated": "tab:pink",
    "sampled_lines": "tab:olive",
    "wordings": "tab:pink",
}


def draw(rows: Sequence[Row], task: str, path: Path) -> None:
    """Accuracy over tokens, left with the tool and right without."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    for axis, arm in zip(axes, ("", "-without-tool"), strict=True):
        for name, colour in COLOURS.items():
            wanted = name if name in ("greedy", "majority") else name + arm
            points = [
                r
                for r in rows
                if r["name"].partition("@")[0] == f"accuracy_{wanted}"
                and r["value"]
                and r["task"] == task
            ]
            if not points:
                continue
            budget = [int(p["name"].partition("@")[2]) for p in points]
            value = [p["value"] for p in points]
            below = [p["value"] - p["low"] for p in points]
            above = [p["high"] - p["value"] for p in points]
            axis.errorbar(
                budget,
                value,
                [below, above],
                label=name,
                color=colour,
                marker="o",
                capsize=2,
                linewidth=2.5 if name == "search" else 1.2,
                linestyle=":" if name.startswith("coverage") else "-",
            )
        axis.set_xscale("log", base=2)
        axis.set_xlabel("tokens read a problem, mean")
        axis.set_title(f"{task}, {'without' if arm else 'with'} the calculator")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("solved, with 95 % intervals")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def redraw(results: Path, plot: Path) -> None:
    rows = json.loads(results.read_text())["rows"]
    for task in sorted({r["task"] for r in rows if r["name"].startswith("accuracy_")}):
        draw(rows, task, Path(str(plot).format(task=task)))
