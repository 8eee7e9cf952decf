"""`ratchet evaluate --compare A B`: two policies on the same held-out problems, paired."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.model_refs import ModelRef, ModelSet
from agent.cli.output import emit, share, table
from agent.config.settings import Config
from agent.evaluation.answering import Plan, benchmark_digest, evaluate
from agent.evaluation.compression import bits_per_character, texts_that_fit
from agent.evaluation.gate import Verdict, judge
from agent.hosting.open_hosts import open_hosts
from agent.progress import Progress, make_progress
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from search.errors import NotFoundError
from search.state import Problem
from store.address import sqlite_path
from store.checkpoints import find_checkpoint
from store.database import read_store
from store.states import Stage


def run(config: Config, named: tuple[str, str], num_problems: int, as_json: bool) -> None:
    refs = [_found(name, config) for name in named]
    task = open_task(config)
    problems = task.held_out(num_problems, config.evaluation.seed)
    progress = make_progress(quiet=as_json)
    hosts = open_hosts(config.hosting)
    rows: list[dict[str, Any]] = []
    correct = []
    try:
        for ref in refs:
            models = Models(hosts, ModelSet({"policy": ref}), task, ModelSettings.of(config))
            row, right = _measured(models, problems, config, progress)
            rows.append(row)
            correct.append(right)
    finally:
        progress.close()
        hosts.close()
    verdict = judge(
        correct[0],
        correct[1],
        config.evaluation.gate_p,
        (rows[0]["bits_per_character"], rows[1]["bits_per_character"]),
    )
    if as_json:
        emit(
            {
                "task": config.task,
                "benchmark": benchmark_digest(problems),
                "policies": rows,
                "verdict": verdict.as_dict(),
            }
        )
        return
    _print(rows, verdict)


def _measured(
    models: Models, problems: Sequence[Problem], config: Config, progress: Progress
) -> tuple[dict[str, Any], dict[str, bool]]:
    """A policy's figures, and by problem whether it was right."""
    version = models.policy.version
    progress.stage(Stage.EVALUATING, len(problems), f"problems, {version}")
    report = evaluate(
        models,
        problems,
        Plan("greedy"),
        config.hosting.cohort,
        lambda done, solved: progress.update(done, solved=solved),
    )
    low, high = report.interval
    worked = texts_that_fit(models, config.evaluation.seed)
    row = {
        "policy": version,
        "n": report.n,
        "correct": report.num_correct,
        "low": low,
        "high": high,
        "tokens_per_problem": report.num_tokens / report.n,
        "bits_per_character": bits_per_character(models, worked),
    }
    return row, report.correct


def _print(rows: Sequence[dict[str, Any]], verdict: Verdict) -> None:
    table(
        [
            {
                "policy": f"{letter} {r['policy']}",
                "greedy [95 %]": share(r["correct"], r["n"], r["low"], r["high"]),
                "tokens a problem": round(r["tokens_per_problem"]),
                "bits a character": _rounded(r["bits_per_character"]),
            }
            for letter, r in zip("AB", rows, strict=True)
        ]
    )
    print(
        f"B over A: {100 * verdict.difference:+.1f} points [{100 * verdict.low:+.1f}, "
        f"{100 * verdict.high:+.1f}]; {verdict.reason}"
    )


def _rounded(bits: float | None) -> str:
    return "-" if bits is None else f"{bits:.4f}"


def _found(name: str, config: Config) -> ModelRef:
    """A policy by its directory, or by its version in the store. Raises NotFoundError."""
    if Path(name).expanduser().is_dir():
        return policy_at(Path(name).expanduser()).ref("policy")
    path = sqlite_path(config.store)
    row = None
    if path is None or path.is_file():
        store = read_store(config.store)
        with store.session() as session:
            row = find_checkpoint(session, "policy", name)
        store.close()
    if row is None:
        raise NotFoundError(
            f"{name!r} is neither a directory nor a policy of {config.shown_store}",
            "see `ratchet models` for the versions",
        )
    return ModelRef.at("policy", row.version, row.path)
