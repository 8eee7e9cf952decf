"""`ratchet evaluate`: accuracy on held-out problems by mode and budget."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agent.cli.output import emit, share, table
from agent.config.settings import Config
from agent.evaluation.answering import MODES, Plan, benchmark_digest, evaluate
from agent.open_models import open_models
from agent.progress import make_progress
from search.errors import UsageError
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
        plain = models.settings
        for mode in [m for m in MODES if m in (modes or MODES)]:
            for budget in (budgets or [plain.simulations]) if mode == "search" else [0]:
                asked = models.with_search(replace(plain, simulations=budget)) if budget else models
                name = f"{mode} {budget}" if budget else mode
                progress.stage(Stage.EVALUATING, len(problems), f"problems, {name}")
                plan = Plan(mode, samples=samples, seed=config.seed)
                report = evaluate(
                    asked,
                    problems,
                    plan,
                    config.hosting.cohort,
                    lambda done, solved: progress.update(done, solved=solved),
                )
                low, high = report.interval
                rows.append(
                    {
                        "mode": name,
                        "n": report.n,
                        "correct": report.num_correct,
                        "low": low,
                        "high": high,
                        "unanswered": report.num_unanswered,
                        "tokens_per_problem": report.num_tokens / report.n,
                        "seconds": report.seconds,
                    }
                )
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
    print(f"policy {models.policy.version}, {len(problems)} held-out problems", file=sys.stderr)
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
