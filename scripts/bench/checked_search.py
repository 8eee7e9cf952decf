"""What a checker is worth to a search that has no tool, beside none and beside the calculator.

    python -m scripts.bench.checked_search                       # both tasks, 20 minutes
    python -m scripts.bench.checked_search --task expressions --seeds 3 --json checked.json
    python -m scripts.bench.checked_search --quick               # two minutes

A run begins, so that its checker learns from labelled problems as in every run; then the same
held-out problems are searched with the calculator, with the checker, and with neither, the embedded
models and budgets of tokens as in `scripts.bench.search`. The checker's own tokens are told beside.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from agent.checkpoints.model_refs import CHECKER
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.search_models import Models
from scripts.bench import arms
from scripts.bench.report import Row, repeats, share, show, write
from scripts.bench.search import (
    BUDGETS,
    HELD_OUT_SEED,
    Answers,
    open_models,
    paired_rows,
    show_table,
)

FLAGS = {
    "hosting.hosting": "inline",
    "critics.use_tool": False,
    "critics.num_labelled": 1000,
    "critics.checker_steps": 800,
}


def measured(
    models: Models, label: str, seeds: Sequence[int], num: int, found: Answers
) -> list[float]:
    """Adds what the searches of these models come to; seconds of each seed."""
    top = max(BUDGETS)
    seconds = []
    for seed in seeds:
        problems = models.task.held_out(num, HELD_OUT_SEED + seed)
        started = time.process_time()
        settings = arms.unlimited(models.settings, 2 * top)
        curves, oracle = arms.searched(models, problems, settings, seed)
        seconds.append(time.process_time() - started)
        for name, arm in ((label, curves), (f"coverage_of_{label}", oracle)):
            for budget in BUDGETS:
                points = arm.best(budget)
                solved = arms.solved(models, problems, points)
                cell = found.setdefault(name, {}).setdefault(budget, [])
                cell += [(s, p.tokens) for s, p in zip(solved, points, strict=True)]
    return seconds


def one_task(task: str, seeds: Sequence[int], num: int) -> list[Row]:
    found: Answers = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        places = {"store": f"sqlite:///{folder}/s.db", "checkpoints": f"{folder}/checkpoints"}
        config, _ = load_config(FLAGS | places | {"task": task})
        with Improver(config, Silent()).started() as improver:
            told = improver.models[CHECKER].header.report
            checked = improver.context().models_for(improver.models)
            assert checked.checker is not None, "the checker is not believed"
            spent = {"search_with_checker": measured(checked, "search", seeds, num, found)}
            tokens = checked.checker.num_tokens / (num * len(seeds))
    found = {f"{name}_with_checker": cells for name, cells in found.items()}
    for label, use_tool in (("search_alone", False), ("search_with_calculator", True)):
        models = open_models(task, use_tool)
        spent[label] = measured(models, label, seeds, num, found)
        models.hosts.close()
    show_table(found)
    for name, by_budget in found.items():
        for budget, cell in by_budget.items():
            mean = round(sum(t for _, t in cell) / len(cell), 1)
            solved = sum(s for s, _ in cell)
            rows.append(
                share(f"accuracy_{name}@{budget}", solved, len(cell), task, mean_tokens=mean)
            )
    rows += paired_rows(found, task, ["search_alone"], "search_with_checker")
    rows.append(repeats("checker_tokens", [tokens], "tokens", "a problem, questions asked once"))
    rows += [repeats(f"cpu_s_{name}", own, "s", f"{num} problems") for name, own in spent.items()]
    for key in ("auc", "refuted_right", "refuted_wrong", "unread_right", "unread_wrong"):
        rows.append(repeats(f"checker_{key}", [told[key]], "share", f"{told['num_texts']} texts"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", choices=["expressions", "stories"])
    parser.add_argument("--problems", type=int, default=100, help="held-out problems a seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="true but smaller")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    num, seeds = (12, [0]) if given.quick else (given.problems, list(range(given.seeds)))
    tasks = [given.task] if given.task else ["expressions", "stories"]
    rows: list[Row] = []
    for task in tasks[: 1 if given.quick else 2]:
        for row in one_task(task, seeds, num):
            rows.append(row)
            show(row)
        settings = {"tasks": tasks, "problems_a_seed": num, "flags": FLAGS}
        write(given.json, "checked_search", settings, seeds, rows)


if __name__ == "__main__":
    main()
