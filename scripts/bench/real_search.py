"""The search of a taught pretrained model beside simpler ways to spend the same tokens.

    python -m scripts.bench.real_search --data DATA --work DIR            # three hours, two cores
    python -m scripts.bench.real_search --data DATA --work DIR --quick    # ten minutes
    python -m scripts.bench.real_search --data DATA --work DIR --sets mawps --problems 200

DIR is the folder of `scripts.bench.real`, whose sections base and round make the taught policy and
the critics that are asked here. Sets: MAWPS dev, SVAMP and short GSM8K problems, none of which
anything was taught on. Every arm answers the same problems, with the calculator and without it.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.custody import current_models
from agent.checkpoints.model_refs import ModelSet
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.search_models import Models, ModelSettings
from critics.rollout import scored
from scripts.bench import arms
from scripts.bench.real import World
from scripts.bench.report import Row, counted, share, show, write
from scripts.bench.search import Answers, paired_rows, show_table
from search.interfaces import Rollout
from search.settings import SearchSettings
from search.state import Problem
from store.database import read_store
from store.runs import all_runs

SETS = ("mawps", "svamp", "gsm8k")
BUDGETS = (128, 256, 512, 1024, 2048)
COHORT = 256
SEED = 19


def opened(world: World, name: str, use_tool: bool, hosts: InlineHosts) -> Models:
    """The taught policy with the critics that the round left."""
    store = read_store(world.store)
    try:
        with store.session() as session:
            run = all_runs(session)[-1]
        refs = current_models(store, run.id, print, is_written=False) or {}
    finally:
        store.close()
    refs["policy"] = verify_checkpoint(world.taught).ref("policy")
    config = world.config(**{"critics.use_tool": use_tool})
    return Models(hosts, ModelSet(refs), world.task(name), ModelSettings.of(config))


def unrefuted(rollout: Rollout) -> float:
    """A vote that counts next to nothing where the tool refutes the text."""
    return 1e-3 if rollout.is_sound is False else 1.0


def with_tool(models: Models, rollout: Rollout) -> Rollout:
    """The same text as the tool finds it."""
    state = replace(rollout.state, options=())
    return scored(models.checked(state, rollout.state.options), rollout.outcome)


def one_set(world: World, name: str, num: int, budgets: Sequence[int]) -> Iterator[Row]:
    hosts = InlineHosts(HostSettings())
    checked, alone = (opened(world, name, use_tool, hosts) for use_tool in (True, False))
    problems = checked.task.held_out(num, 0)
    found: Answers = {}
    top = max(budgets)

    def note(label: str, arm: arms.Arm) -> None:
        for budget in budgets:
            points = arm.best(budget)
            solved = arms.solved(checked, problems, points)
            cell = found.setdefault(label, {}).setdefault(budget, [])
            cell += [(s, p.tokens) for s, p in zip(solved, points, strict=True)]

    def spent(label: str, work: Callable[[], None]) -> Row:
        started = time.process_time()
        work()
        return counted(f"cpu_s_{label}", time.process_time() - started, "s", len(problems), name)

    def samples() -> None:
        parts = [problems[i : i + 25] for i in range(0, len(problems), 25)]
        raw = [g for part in parts for g in arms.sampled(alone, part, top, SEED)]
        note("greedy", arms.greedy(alone, problems))
        note("majority", arms.vote(raw, lambda _: 1.0))
        note("best_of_n", arms.best_of_n(raw))
        note("orm_vote", arms.vote(raw, arms.orm))
        groups = [[with_tool(checked, r) for r in group] for group in raw]
        note("tool_filtered", arms.vote(groups, unrefuted))
        note("tool_filtered_best_of_n", arms.best_of_n(groups))
        note("tool_filtered_orm", arms.vote(groups, lambda r: unrefuted(r) * (arms.orm(r) or 0.5)))
        note("coverage_of_samples", arms.coverage(checked, problems, groups))

    def searches(models: Models, label: str) -> Callable[[], None]:
        def work() -> None:
            settings = arms.unlimited(models.settings, top)
            curves, oracle = searched(models, problems, settings)
            note(f"search{label}", curves)
            note(f"coverage_of_search{label}", oracle)

        return work

    def lines() -> None:
        note("enumerated", arms.enumerated(checked, problems, top))
        note("sampled_lines", arms.sampled_lines(checked, problems, top, SEED))

    def wordings() -> None:
        note("wordings", arms.worded(alone, problems, 4, SEED))

    for label, work in (
        ("samples", samples),
        ("search", searches(checked, "")),
        ("search_without_tool", searches(alone, "-without-tool")),
        ("lines", lines),
        ("wordings", wordings),
    ):
        yield spent(label, work)
        show_table(found)
    hosts.close()
    for label, by_budget in found.items():
        for budget, cell in by_budget.items():
            tokens = round(mean(t for _, t in cell), 1)
            solved = sum(s for s, _ in cell)
            yield share(
                f"accuracy_{label}@{budget}", solved, len(cell), name, set=name, mean_tokens=tokens
            )
    yield from paired_rows(found, name, WITH_TOOL, "search")
    yield from paired_rows(found, name, WITHOUT, "search-without-tool")


WITHOUT = ("greedy", "majority", "best_of_n", "orm_vote", "wordings")
WITH_TOOL = (
    *(*WITHOUT, "tool_filtered", "tool_filtered_best_of_n", "tool_filtered_orm"),
    *("enumerated", "sampled_lines"),
)


def searched(
    models: Models, problems: Sequence[Problem], settings: SearchSettings
) -> tuple[arms.Curves, arms.Curves]:
    curves, oracle = arms.Curves([]), arms.Curves([])
    for start in range(0, len(problems), COHORT):
        part = problems[start : start + COHORT]
        ours, best = arms.searched(models, part, settings, SEED)
        curves.points += ours.points
        oracle.points += best.points
    return curves, oracle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--problems", type=int, default=200, help="of each set")
    parser.add_argument("--budget", type=int, default=max(BUDGETS), help="the largest")
    parser.add_argument("--quick", action="store_true", help="16 problems, up to 256 tokens")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    num, top = (16, 256) if given.quick else (given.problems, given.budget)
    world = World(given.data, given.work, False, None)
    world.prepare()
    budgets = [b for b in BUDGETS if b <= top]
    rows: list[Row] = []
    settings = {"sets": given.sets, "problems": num, "budgets": budgets}
    for name in given.sets:
        for row in one_set(world, name, num, budgets):
            rows.append(row)
            show(row)
            write(given.json, "real_search", settings, [SEED], rows)


if __name__ == "__main__":
    main()
