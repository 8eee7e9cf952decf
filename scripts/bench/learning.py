#!/usr/bin/env python3
"""How much does one round teach? Held-out accuracy before and after, over several seeds.

    .venv/bin/python scripts/bench/learning.py                     # 3 seeds, about 12 minutes
    .venv/bin/python scripts/bench/learning.py --quick             # 1 seed, small, under a minute
    .venv/bin/python scripts/bench/learning.py --json results.json

Each seed is a run of its own from the shipped base: its own imagined problems, searches, training
and gate. The held-out problems are drawn with a seed that no tuning looked at. The control arm
takes as many training steps on demonstrations alone, from the same base, on the same problems.
Everything runs in this process (`--hosting inline`), one thread.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from report import missing, repeats, share, show, write  # noqa: E402

from agent.config import Config, load_config  # noqa: E402
from agent.engine.checkpoint import inspect_checkpoint  # noqa: E402
from agent.engine.hosts import ModelRef  # noqa: E402
from agent.engine.tokenizer import Tokenizer  # noqa: E402
from agent.evaluation import Plan, Report, evaluate  # noqa: E402
from agent.progress import Silent  # noqa: E402
from agent.round import Outcome  # noqa: E402
from agent.run import Improver  # noqa: E402
from agent.training.jobs import Place, policy_job  # noqa: E402
from agent.training.recipe import demonstration_examples, policy_settings  # noqa: E402

HELD_OUT_SEED = 20_261_122


def settings(task: str, seed: int, folder: Path, quick: bool) -> Config:
    flags: dict[str, Any] = {
        "task": task, "seed": seed, "hosting.hosting": "inline",
        "store": f"sqlite:///{folder}/store.db", "checkpoints": f"{folder}/checkpoints",
        "evaluation.seed": HELD_OUT_SEED,
    }  # fmt: skip
    if quick:
        flags |= {
            "problems_per_round": 100, "training.num_steps": 40, "critics.steps": 10,
            "critics.num_labelled": 30, "evaluation.num_problems": 200,
            "evaluation.num_search_problems": 20, "training.drafter_steps": 10,
        }  # fmt: skip
    return load_config(flags)[0]


def control(improver: Improver, config: Config, folder: Path) -> Report:
    """The base trained for as many steps on demonstrations only, evaluated greedily."""
    policy = improver.base["policy"]
    base = policy_settings(config.training, policy)
    rows = base.num_steps * base.batch_size
    demonstrations = improver.task.demonstrations(rows, config.seed + 1)
    examples = demonstration_examples(improver.task, Tokenizer(policy.path), demonstrations)
    recipe = base.model_copy(update={"max_epochs": 100.0})
    place = Place(str(folder / "control"))
    trained = policy_job(str(policy.path), examples, recipe, config.seed, place)
    child = inspect_checkpoint(trained.path)
    refs = dict(improver.models) | {
        "policy": ModelRef("policy", child.version, str(child.path)),
    }
    problems = improver.task.held_out(config.evaluation.num_problems, HELD_OUT_SEED)
    return evaluate(improver.context().models_for(refs), problems, Plan("greedy"))


def one_seed(task: str, seed: int, quick: bool) -> tuple[Outcome, Report, float]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = settings(task, seed, folder, quick)
        started = time.monotonic()
        with Improver(config, Silent()).started() as improver:
            outcome = improver.run_round()
            seconds = time.monotonic() - started
            return outcome, control(improver, config, folder), seconds


def removed(before: float, after: float) -> float:
    """Share of the errors that are gone."""
    return (after - before) / (1 - before) if before < 1 else 0.0


def summary(outcomes: list[tuple[Outcome, Report, float]]) -> list[dict[str, Any]]:
    """Rows over all seeds; `low` and `high` of a pooled share are its Wilson interval."""
    whole = [(o, c, s) for o, c, s in outcomes if o.before and o.after]
    if not whole:
        return [missing("greedy_after_1", "no round trained a candidate")]
    figures = [(o.before, o.after, c, s) for o, c, s in whole]
    n = sum(b.greedy.n for b, *_ in figures if b)
    before = sum(b.greedy.num_correct for b, *_ in figures if b)
    after = sum(a.greedy.num_correct for _, a, *_ in figures if a)
    old = sum(c.num_correct for *_, c, _ in figures)
    rows = [
        share("greedy_before", before, n, "shipped base"),
        share("greedy_after_1", after, n, "greedy_before, same problems"),
        share("greedy_control", old, n, "as many steps on demonstrations only"),
        {"name": "greedy_errors_removed", "value": removed(before / n, after / n), "unit": "share"},
        {"name": "control_errors_removed", "value": removed(before / n, old / n), "unit": "share"},
    ]
    searched = [(b.search, a.search) for b, a, *_ in figures if b and a and b.search and a.search]
    if searched:
        m = sum(b.n for b, _ in searched)
        rows += [
            share("search_before", sum(b.num_correct for b, _ in searched), m, "greedy_before"),
            share("search_after_1", sum(a.num_correct for _, a in searched), m, "search_before"),
        ]
    rows.append(
        {"name": "promoted", "value": sum(o.stage == "promoted" for o, *_ in outcomes),
         "unit": "rounds", "n": len(outcomes)}
    )  # fmt: skip
    seconds = [s for *_, s in outcomes]
    return [*rows, repeats("seconds_per_round", seconds, "s", "whole rounds")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="expressions", choices=["expressions", "stories"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = [0] if arguments.quick else list(range(arguments.seeds))
    print(
        "seed  greedy before -> after [95 %]            control   search before -> after   verdict"
    )
    outcomes = []
    for seed in seeds:
        outcome, old, seconds = one_seed(arguments.task, seed, arguments.quick)
        outcomes.append((outcome, old, seconds))
        if outcome.before and outcome.after:
            b, a = outcome.before, outcome.after
            low, high = a.greedy.interval
            search = (
                f"{b.search.num_correct / b.search.n:.1%} -> "
                f"{a.search.num_correct / a.search.n:.1%}"
                if b.search and a.search
                else "-"
            )
            print(
                f"{seed:>4}  {b.greedy.num_correct / b.greedy.n:.1%} -> "
                f"{a.greedy.num_correct / a.greedy.n:.1%} [{low:.1%}, {high:.1%}]   "
                f"{old.num_correct / old.n:.1%}   {search}   {outcome.stage} "
                f"(p = {outcome.verdict['p']:.2g}), {seconds:.0f} s",
                flush=True,
            )
        else:
            print(f"{seed:>4}  {outcome.stage}: {outcome.verdict.get('reason')}", flush=True)
    rows = summary(outcomes)
    for r in rows:
        show(r)
    settings_used = {"task": arguments.task, "rounds": 1, "quick": arguments.quick}
    write(arguments.json, "learning", settings_used, seeds, rows)


if __name__ == "__main__":
    main()
