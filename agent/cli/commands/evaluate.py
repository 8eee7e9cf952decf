"""`ratchet evaluate`: accuracy on held-out problems by mode and budget."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.cli.output import emit, share, table
from agent.config.settings import Config
from agent.evaluation.answering import MODES, Plan, benchmark_digest, evaluate
from agent.open_models import open_models
from agent.progress import Progress, make_progress
from agent.search_models import Models
from search.errors import UsageError
from search.state import Problem
from store.states import Stage


def run(
    config: Config,
    modes: Sequence[str],
    num_problems: int,
    samples: int,
    budgets: Sequence[int],
    as_json: bool,
) -> None:
    unknown = [m for m in modes if m not in MODES]
    if unknown:
        raise UsageError(f"unknown mode {unknown[0]!r}", f"use one of: {', '.join(MODES)}")
    progress = make_progress(quiet=as_json)
    rows: list[dict[str, Any]] = []
    with open_models(config) as models:
        problems = models.task.held_out(num_problems, config.evaluation.seed)
        for mode in [m for m in MODES if m in (modes or MODES)]:
            plan = Plan(mode, samples=samples, seed=config.seed)
            if mode != "search":
                rows.append(_measured(models, problems, plan, mode, config, progress))
                continue
            for budget in budgets or [models.settings.simulations]:
                asked = models.with_search(replace(models.settings, simulations=budget))
                name = f"{mode} {budget}"
                rows.append(_measured(asked, problems, plan, name, config, progress))
    progress.close()
    if as_json:
        emit(
            {
                "task": config.task,
                "benchmark": benchmark_digest(problems),
                "models": models.versions,
                "seed": config.seed,
                "config_sha": config.digest(),
                "results": rows,
            }
        )
        return
    _print(models, len(problems), rows)


def _measured(
    models: Models,
    problems: Sequence[Problem],
    plan: Plan,
    name: str,
    config: Config,
    progress: Progress,
) -> dict[str, Any]:
    progress.stage(Stage.EVALUATING, len(problems), f"problems, {name}")
    report = evaluate(
        models,
        problems,
        plan,
        config.hosting.cohort,
        lambda done, solved: progress.update(done, solved=solved),
    )
    low, high = report.interval
    return {
        "mode": name,
        "n": report.n,
        "correct": report.num_correct,
        "low": low,
        "high": high,
        "unanswered": report.num_unanswered,
        "tokens_per_problem": report.num_tokens / report.n,
        "seconds": report.seconds,
    }


def _print(models: Models, num_problems: int, rows: Sequence[dict[str, Any]]) -> None:
    print(f"policy {models.policy.version}, {num_problems} held-out problems", file=sys.stderr)
    table(
        [
            {
                "mode": r["mode"],
                "accuracy [95 %]": share(r["correct"], r["n"], r["low"], r["high"]),
                "unanswered": r["unanswered"],
                "tokens a problem": round(r["tokens_per_problem"]),
                "seconds": round(r["seconds"], 1),
            }
            for r in rows
        ]
    )
