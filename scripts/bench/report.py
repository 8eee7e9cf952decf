"""How a benchmark speaks: rows for people as a table, and for programs as one JSON document."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from agent.evaluation.intervals import wilson
from agent.rounds.code_version import code_version

Row = dict[str, Any]


def share(name: str, correct: int, n: int, baseline: str, **more: Any) -> Row:
    """A proportion with its 95 % Wilson interval."""
    low, high = wilson(correct, n)
    return {
        "name": name,
        "value": correct / n,
        "unit": "share",
        "low": low,
        "high": high,
        "n": n,
        "baseline": baseline,
    } | more


def repeats(name: str, values: Sequence[float], unit: str, baseline: str, **more: Any) -> Row:
    """The median of repeats with their range."""
    return {
        "name": name,
        "value": median(values),
        "unit": f"median {unit}",
        "low": min(values),
        "high": max(values),
        "n": len(values),
        "baseline": baseline,
    } | more


def counted(name: str, value: float, unit: str, n: int, baseline: str, target: float = 0) -> Row:
    """How often something happened that should happen `target` times."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "n": n,
        "baseline": baseline,
        "target": target,
    }


def missing(name: str, why: str) -> Row:
    return {"name": name, "value": None, "why": why}


def show(row: Row) -> None:
    if row["value"] is None:
        print(f"{row['name']:<44} not measured: {row['why']}", flush=True)
        return
    spread = f" [{row['low']:.4g}, {row['high']:.4g}]" if "low" in row else ""
    target = f", target {row['target']:g}" if "target" in row else ""
    print(
        f"{row['name']:<44} {row['value']:.4g}{spread} {row['unit']}, n = {row.get('n', '-')}"
        f"{target}; {row.get('baseline', '')}",
        flush=True,
    )


def write(
    path: Path | None, bench: str, settings: dict[str, Any], seeds: Sequence[int], rows: list[Row]
) -> None:
    """One JSON document; nothing without a path."""
    if path is None:
        return
    cuda = torch.cuda.is_available()
    document = {
        "bench": bench,
        "commit": code_version(),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
        },
        "settings": settings,
        "seeds": list(seeds),
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
