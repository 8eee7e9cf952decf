"""Rows of runs and rounds with whatever a test does not say."""

from typing import Any

from store.database import now_us
from store.schema import Round, Run


def a_run(**values: Any) -> Run:
    """A run named "r" of task "t"."""
    others = {"name": "r", "task": "t", "config": {}, "config_sha": "", "code_version": ""}
    return Run(**({**others, "seed": 1, "created_ts": now_us()} | values))


def a_round(run_id: int, number: int, stage: str, **values: Any) -> Round:
    """A round of a run at some stage."""
    others = {"models": {}, "search_config": {}, "config_sha": "", "timings": {}}
    row = {"run_id": run_id, "number": number, "stage": stage, "started_ts": now_us()}
    return Round(**(others | row | values))
