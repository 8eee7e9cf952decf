"""`ratchet evaluate`: accuracy on held-out problems by mode and budget."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.cli.output import emit, share, table
from agent.config.settings import Config
from agent.evaluation.answering import MODES, Plan, benchmark_digest, evaluate
from agent.open_models import open_models
from agent.progress import Progress, make_progress
from agent.search_models import Models
from search.errors import UsageError
from search.state import Problem
from store.database import Store, open_store
from store.evaluations import EvaluationKey, record_evaluation
from store.states import Stage


def run(
    config: Config,
    modes: Sequence[str],
    num_problems: int,
    samples: int,
    budgets: Sequence[int],
    is_recorded: bool,
    as_json: bool,
) -> None:
    """Measure, print and, where wanted, record in the store."""
    unknown = [m for m in modes if m not in MODES]
    if unknown:
        raise UsageError(f"unknown mode {unknown[0]!r}", f"use one of: {', '.join(MODES)}")
    progress = make_progress(quiet=as_json)
    rows: list[dict[str, Any]] = []
    store = open_store(config.store) if is_recorded else None
    with open_models(config) as models:
        problems = models.task.held_out(num_problems, config.evaluation.seed)
        bench = _Bench(problems, config, progress, store)
        for mode in [m for m in MODES if m in (modes or MODES)]:
            plan = Plan(mode, samples=samples, seed=config.seed)
            if mode != "search":
                rows.append(_measured(models, bench, plan, mode))
                continue
            for budget in budgets or [models.settings.simulations]:
                asked = models.with_search(replace(models.settings, simulations=budget))
                name = f"{mode} {budget}"
                rows.append(_measured(asked, bench, plan, name))
    progress.close()
    if store is not None:
        store.close()
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


@dataclass(frozen=True, slots=True)
class _Bench:
    problems: Sequence[Problem]
    config: Config
    progress: Progress
    store: Store | None
    """Where results are recorded; None: nowhere."""


def _measured(models: Models, bench: _Bench, plan: Plan, name: str) -> dict[str, Any]:
    bench.progress.stage(Stage.EVALUATING, len(bench.problems), f"problems, {name}")
    report = evaluate(
        models,
        bench.problems,
        plan,
        bench.config.hosting.cohort,
        lambda done, solved: bench.progress.update(done, solved=solved),
    )
    low, high = report.interval
    if bench.store is not None:
        uses_all = plan.mode not in ("greedy", "majority")
        versions = models.versions if uses_all else {"policy": models.policy.version}
        key = EvaluationKey(versions, plan.settings(models), benchmark_digest(bench.problems))
        with bench.store.session() as session:
            record_evaluation(session, key, report, None, bench.problems, bench.config.task)
    return {
        "mode": name,
        "n": report.n,
        "correct": report.num_correct,
        "low": low,
        "high": high,
        "unanswered": report.num_unanswered,
        "cut_by_length": report.num_cut,
        "tokens_per_problem": report.num_tokens / report.n,
        "seconds": report.seconds,
    }


def _print(models: Models, num_problems: int, rows: Sequence[dict[str, Any]]) -> None:
    print(f"policy {models.policy.version}, {num_problems} held-out problems", file=sys.stderr)
    cut = next((r for r in rows if r["cut_by_length"]), None)
    if cut:
        share_cut = cut["cut_by_length"] / cut["n"]
        print(
            f"{share_cut:.0%} of the texts of mode {cut['mode']} ended by length: raise "
            f"hosting.text_tokens ({models.limits.text_tokens}, {models.limits.reason})",
            file=sys.stderr,
        )
    table(
        [
            {
                "mode": r["mode"],
                "accuracy [95 %]": share(r["correct"], r["n"], r["low"], r["high"]),
                "unanswered": r["unanswered"],
                "cut": r["cut_by_length"],
                "tokens": round(r["tokens_per_problem"]),
                "seconds": round(r["seconds"], 1),
            }
            for r in rows
        ]
    )
