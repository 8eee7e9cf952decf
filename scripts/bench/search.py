"""How fast and how good is the search, beside every simpler way to spend the same tokens?

    python -m scripts.bench.search --quick                      # under a minute
    python -m scripts.bench.search --only speed,batching        # 8 minutes
    python -m scripts.bench.search --only quality --task stories --plot curves.png
    python -m scripts.bench.search --json results.json          # all of it, 2 hours

Sections: speed (the search alone), batching (with the embedded model), quality (accuracy against
tokens read, all arms on the same held-out problems), confidence (what a search says at its end
against what is right, and what its early end saves),
ablation (the parts of AlphaLLM, then ours, one after the other), roots (selection at the root),
game24 (needs --models, built by scripts.build_embedded game24 --out DIR),
replay (1, 2 and 4 workers, and after a kill). One thread; the held-out problems are drawn with
seeds that no tuning looked at.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.model_refs import ROLES
from agent.config.load import load_config
from agent.evaluation.intervals import paired_difference
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.open_models import base_refs, models_over
from agent.search_models import Models
from scripts.bench import arms
from scripts.bench.curves import draw, redraw
from scripts.bench.free_world import speed
from scripts.bench.replayed import replay
from scripts.bench.report import Row, counted, missing, repeats, share, show, write
from search import frontier
from search.mcts import Search
from search.randomness import derive_seed
from search.settings import SearchSettings

SECTIONS = (
    *("speed", "batching", "quality", "confidence", "ablation", "roots", "game24", "replay"),
)
BASELINES = (
    *("enumerated", "sampled_lines", "tool_filtered", "best_of_n", "orm_vote", "wordings"),
    *("line_of_play", "prm_beam"),
)
BUDGETS = (64, 128, 256, 512, 1024)
WORDINGS = 20
HELD_OUT_SEED = 20_261_123


def open_models(task: str, use_tool: bool, folder: Path | None = None, **flags: Any) -> Models:
    """The task's models in this process: the embedded ones, or those of a folder."""
    config, _ = load_config(
        {"task": task, "hosting.hosting": "inline", "critics.use_tool": use_tool} | flags
    )
    if folder is None:
        refs = base_refs(config)
    else:
        refs = {role: verify_checkpoint(folder / role).ref(role) for role in ROLES}
    return models_over(config, refs)


class TimedHosts(InlineHosts):
    """Counts the seconds spent in model calls."""

    seconds = 0.0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("options", "drafted_completions", "critic_logits"):
            return found

        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return found(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def is_same_tree(left: Search, right: Search) -> bool:
    """The same nodes with the same visits; values but for what batches of other sizes round."""
    pairs = list(zip(left.nodes, right.nodes, strict=False))
    return len(left.nodes) == len(right.nodes) and all(
        a.state.tokens == b.state.tokens and a.visits == b.visits and abs(a.mean - b.mean) < 1e-4
        for a, b in pairs
    )


def batching(quick: bool) -> list[Row]:
    models = open_models("expressions", True)
    num, simulations = (12, 4) if quick else (64, 16)
    problems = models.task.held_out(num, HELD_OUT_SEED)
    # No early end: all arms do the same work.
    plain = replace(models.settings, simulations=simulations, max_tokens=600, stop_value=2.0)

    def go(settings: SearchSettings, one_by_one: bool) -> tuple[float, list[Search]]:
        # Hosts of its own: what one arm has read must not be known to the next one.
        own = open_models("expressions", True).with_search(settings)
        for ref in own.models.refs.values():
            own.hosts.load(ref)
        searches = [Search(own.root(p), settings, derive_seed(0, p.id, "bench")) for p in problems]
        started = time.perf_counter()
        for part in [[s] for s in searches] if one_by_one else [searches]:
            frontier.run(part, own, own)
        spent = time.perf_counter() - started
        own.hosts.close()
        return sum(s.budget.tokens for s in searches) / spent, searches

    speedups, more, same = [], [], 0
    for _ in range(1 if quick else 3):
        slow, alone = go(plain, True)
        fast, together = go(plain, False)
        wide, _ = go(replace(plain, in_flight=4), False)
        speedups.append(fast / slow)
        more.append(wide / slow)
        same = sum(is_same_tree(a, b) for a, b in zip(alone, together, strict=True))
    rows = [
        repeats(
            "batching_speedup",
            speedups,
            "x",
            f"tokens a second against one call at a time, same run; {num} problems of 600 tokens, "
            "in_flight 1, nothing read before",
            target=8,
        ),
        repeats("batching_speedup_in_flight_4", more, "x", "one call at a time, same run"),
        share("batching_same_trees", same, len(problems), "trees searched one call at a time"),
    ]
    return [*rows, overhead(quick)]


def overhead(quick: bool) -> Row:
    """Share of the time that is not spent in model calls, at 64 problems x 32 simulations."""
    models = open_models("expressions", True)
    models.hosts = hosts = TimedHosts(HostSettings())
    num, simulations = (16, 8) if quick else (64, 32)
    settings = replace(models.settings, simulations=simulations, max_tokens=600, stop_value=2.0)
    own = models.with_search(settings)
    shares = []
    for k in range(1 if quick else 3):
        problems = models.task.held_out(num, HELD_OUT_SEED + k)
        searches = [Search(own.root(p), settings, derive_seed(0, p.id)) for p in problems]
        hosts.seconds = 0.0
        started = time.perf_counter()
        frontier.run(searches, own, own)
        whole = time.perf_counter() - started
        shares.append(1 - hosts.seconds / whole)
    what = f"{num} problems x {simulations} simulations, expressions with its calculator"
    return repeats("overhead_share", shares, "share", what, target=0.15)


@contextmanager
def timed(label: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"# {label}: {time.monotonic() - started:.0f} s", flush=True)


Confidences = dict[str, list[tuple[float, bool]]]
"""With the tool and without: what searches said at their ends, and whether they were right."""
Answers = dict[str, dict[int, list[tuple[bool, int]]]]
"""By arm and budget: for each problem whether it was solved, and the tokens spent on it."""


def measure_arms(
    by_label: dict[str, Models],
    seed: int,
    num: int,
    budgets: Sequence[int],
    found: Answers,
) -> None:
    """All arms on one set of problems, with the tool (label "") and without it."""
    plain = next(iter(by_label.values()))
    problems = plain.task.held_out(num, HELD_OUT_SEED + seed)
    top = max(budgets)

    def note(name: str, arm: arms.Arm, own: Models) -> None:
        for budget in budgets:
            points = arm.best(budget)
            solved = arms.solved(own, problems, points)
            cell = found.setdefault(name, {}).setdefault(budget, [])
            cell += [(s, p.tokens) for s, p in zip(solved, points, strict=True)]

    note("greedy", arms.greedy(plain, problems), plain)
    for label, own in by_label.items():
        with timed(f"seed {seed}, samples{label}"):
            groups = arms.sampled(own, problems, top, seed)
        if own is plain:
            note("majority", arms.vote(groups, lambda _: 1.0), own)
        if label:
            note(f"wordings{label}", arms.worded(own, problems, WORDINGS, seed), own)
        else:
            note("tool_filtered", arms.until_sound(own, problems, 4 * top, seed), own)
            with timed(f"seed {seed}, line by line"):
                note("enumerated", arms.enumerated(own, problems, top), own)
                note("sampled_lines", arms.sampled_lines(own, problems, top, seed), own)
        note(f"best_of_n{label}", arms.best_of_n(groups), own)
        note(f"orm_vote{label}", arms.vote(groups, arms.orm), own)
        note(f"coverage_of_samples{label}", arms.coverage(own, problems, groups), own)
        with timed(f"seed {seed}, line of play and beams{label}"):
            note(f"line_of_play{label}", arms.line_of_play(own, problems), own)
            note(f"prm_beam{label}", arms.prm_beam(own, problems), own)
        with timed(f"seed {seed}, search{label}"):
            # A search ends early, so its mean is below the cap.
            settings = arms.unlimited(own.settings, (2 if label else 4) * top)
            curves, oracle = arms.searched(own, problems, settings, seed)
            note(f"search{label}", curves, own)
            note(f"coverage_of_search{label}", oracle, own)


def accuracy_rows(found: Answers, task: str) -> list[Row]:
    rows = [
        share(
            f"accuracy_{name}@{budget}",
            sum(s for s, _ in cell),
            len(cell),
            "all arms on the same problems",
            task=task,
            mean_tokens=round(sum(t for _, t in cell) / len(cell), 1),
        )
        for name, by_budget in found.items()
        for budget, cell in by_budget.items()
    ]
    for label in ("", "-without-tool"):
        if f"search{label}" in found:
            others = [*(f"{name}{label}" for name in BASELINES), "greedy", "majority"]
            rows += paired_rows(found, task, others, f"search{label}")
    return rows


def paired_rows(
    found: Answers, task: str, others: Sequence[str], ours: str = "search"
) -> Iterator[Row]:
    """Our search less the best of the others at each budget, problem by problem."""
    for budget, cell in found[ours].items():
        best = max(
            (n for n in others if n in found), key=lambda n: sum(s for s, _ in found[n][budget])
        )
        theirs = [s for s, _ in found[best][budget]]
        pairs = list(zip([s for s, _ in cell], theirs, strict=True))
        gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        mean, low, high = paired_difference(gained, lost, len(pairs))
        yield {
            "name": f"{ours}_less_best_baseline@{budget}",
            "value": mean,
            "unit": "share",
            "low": low,
            "high": high,
            "n": len(pairs),
            "baseline": best,
            "task": task,
        }


BINS = (0.0, 0.5, 0.7, 0.9, 0.99, 1.01)


def confidence_rows(found: Confidences, task: str) -> list[Row]:
    """How often an answer of which the search was so sure is right, and the expected error."""
    rows: list[Row] = []
    for label, pairs in found.items():
        error = 0.0
        for low, high in pairwise(BINS):
            inside = [(c, s) for c, s in pairs if low <= c < high]
            if not inside:
                continue
            stated = sum(c for c, _ in inside) / len(inside)
            right = sum(s for _, s in inside)
            error += abs(right - stated * len(inside)) / len(pairs)
            rows.append(
                share(
                    f"right_where_stated{label}@{low}",
                    right,
                    len(inside),
                    f"stated {stated:.3f}",
                    task=task,
                    stated=round(stated, 3),
                )
            )
        rows.append(counted(f"calibration_error{label}", error, "share", len(pairs), task))
    return rows


def quality(
    task: str, num: int, seeds: Sequence[int], budgets: Sequence[int], tool: str, plot: Path | None
) -> list[Row]:
    by_label: dict[str, Models] = {}
    if tool != "without":
        by_label[""] = open_models(task, True)
    if tool != "with":
        by_label["-without-tool"] = open_models(task, False)
    found: Answers = {}
    for seed in seeds:
        measure_arms(by_label, seed, num, budgets, found)
        show_table(found)
    rows = accuracy_rows(found, task)
    if plot is not None:
        draw(rows, task, plot)
    return rows


def confidence(
    task: str, num: int, seeds: Sequence[int], budgets: Sequence[int], tool: str
) -> list[Row]:
    """What searches say at their ends, and how many tokens and answers an early end costs."""
    found: Confidences = {}
    rows: list[Row] = []
    top = max(budgets)
    for use_tool in (True, False):
        if tool not in ("both", "with" if use_tool else "without"):
            continue
        models = open_models(task, use_tool)
        label = "" if use_tool else "-without-tool"
        for is_early in (True, False):
            settings = arms.unlimited(models.settings, top)
            settings = replace(settings, stop_decided=is_early)
            right, tokens = 0, 0
            for seed in seeds:
                problems = models.task.held_out(num, HELD_OUT_SEED + seed)
                curves, _ = arms.searched(models, problems, settings, seed)
                ends = curves.capped(10**9)
                solved = arms.solved(models, problems, ends)
                right += sum(solved)
                tokens += sum(p.tokens for p in ends)
                if is_early:
                    pairs = zip(ends, solved, strict=True)
                    found.setdefault(label, []).extend(
                        (p.confidence, s) for p, s in pairs if p.confidence is not None
                    )
            n = num * len(seeds)
            how = "ends when decided" if is_early else "goes on to the budget"
            what = f"{how}, {tokens / n:.0f} tokens a problem"
            row = share(f"solved{label}@{top}", right, n, what, task=task, mean_tokens=tokens / n)
            rows.append(row)
            show(row)
    return rows + confidence_rows(found, task)


def show_table(found: Answers) -> None:
    """Share solved and, in brackets, mean tokens."""
    budgets = list(next(iter(found.values())))
    n = len(next(iter(found.values()))[budgets[0]])
    print(f"{'n = ' + str(n):<36}" + "".join(f"{b:>16}" for b in budgets))
    for name, by_budget in found.items():
        cells = (
            f"{sum(s for s, _ in cell) / n:.3f} ({sum(t for _, t in cell) / n:.0f})"
            for cell in by_budget.values()
        )
        print(f"{name:<36}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


STEPS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    (
        "value only, fixed width",
        {
            "leaves": "states",
            "stop_decided": False,
            "importance": 0.0,
            "min_width": 4,
            "max_width": 4,
            "proposal": "sampled",
            "merge": "tokens",
            "num_rollouts": 0,
            "final": "visits",
            "unsound": "keep",
        },
        {"critics.process_weight": 0.0, "critics.outcome_weight": 0.0, "critics.use_tool": False},
    ),
    ("+ adaptive width", {"importance": 8.0, "max_width": 32}, {}),
    ("+ process reward", {}, {"critics.process_weight": 1.0}),
    (
        "+ rollouts scored by the outcome critic",
        {"num_rollouts": 1, "final": "vote"},
        {"critics.outcome_weight": 1.0},
    ),
    ("+ merge by text", {"merge": "text"}, {}),
    ("+ calculator", {"unsound": "prune"}, {"critics.use_tool": True}),
    ("+ options drawn without replacement", {"proposal": "drawn"}, {}),
    ("+ most probable different options", {"proposal": "distinct"}, {}),
    ("+ more simulations", {"max_tokens": 1024, "simulations": 10_000}, {}),
    ("+ finished texts as leaves", {"leaves": "texts"}, {}),
    ("+ claims merged, refuted ones lent", {"merge": "claims"}, {}),
    ("+ ends when decided", {"stop_decided": True}, {}),
    ("with the other order", {"order": "other"}, {}),
)


def ablation(task: str, num: int, seeds: Sequence[int], tool: str) -> list[Row]:
    """Each row adds one part; 24 simulations and 512 tokens a problem but for the last."""
    settings = SearchSettings(simulations=24, max_tokens=512)
    flags: dict[str, Any] = {}
    rows = []
    for i, (label, changes, more) in enumerate(STEPS):
        if changes.get("order") == "other":
            changes = {"order": "mass" if task == "expressions" else "depth"}
        settings, flags = replace(settings, **changes), flags | more
        uses_tool = bool(flags["critics.use_tool"])
        if tool not in ("both", "with" if uses_tool else "without"):
            continue
        models = open_models(task, **({"use_tool": False} | _as_arguments(flags)))
        correct, tokens, started = 0, 0.0, time.monotonic()
        for seed in seeds:
            problems = models.task.held_out(num, HELD_OUT_SEED + seed)
            curves, _ = arms.searched(models, problems, settings, seed)
            # What the search ended with, a last batch over the budget included.
            points = curves.capped(10**9)
            correct += sum(arms.solved(models, problems, points))
            tokens += sum(p.tokens for p in points)
        n = num * len(seeds)
        rows.append(
            share(
                f"ablation_{i}",
                correct,
                n,
                "the row before",
                what=label,
                task=task,
                mean_tokens=round(tokens / n, 1),
            )
        )
        print(
            f"{label:<42} {correct / n:.3f} at {tokens / n:.0f} tokens, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    return rows


def _as_arguments(flags: dict[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in flags.items() if k != "critics.use_tool"}
    return rest | {"use_tool": flags.get("critics.use_tool", False)}


ROOTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("as everywhere", {}),
    ("halving over 4", {"root_selection": "gumbel", "num_considered": 4}),
    ("halving over 16", {"root_selection": "gumbel", "num_considered": 16}),
    ("Dirichlet noise of a quarter", {"noise_fraction": 0.25}),
    ("exploration of 0.3", {"exploration": 0.3}),
    ("exploration of 3", {"exploration": 3.0}),
)


def roots(
    task: str, num: int, seeds: Sequence[int], budgets: Sequence[int], tool: str
) -> list[Row]:
    """Selection at the root, and exploration, on the budget curve."""
    rows: list[Row] = []
    for use_tool in (True, False):
        if tool not in ("both", "with" if use_tool else "without"):
            continue
        models = open_models(task, use_tool)
        for label, changes in ROOTS:
            solved: dict[int, int] = dict.fromkeys(budgets, 0)
            for seed in seeds:
                problems = models.task.held_out(num, HELD_OUT_SEED + seed)
                top = max(budgets)
                settings = replace(arms.unlimited(models.settings, 2 * top), **changes)
                if changes.get(
                    "root_selection"
                ):  # its shares are of the simulations that there are
                    settings = replace(settings, simulations=32)
                if not use_tool:
                    # Other wordings are roots of their own: one is looked at here.
                    settings = replace(settings, wordings=1)
                curves, _ = arms.searched(models, problems, settings, seed)
                for budget in budgets:
                    solved[budget] += sum(arms.solved(models, problems, curves.best(budget)))
            where = "with the calculator" if use_tool else "without it"
            n = num * len(seeds)
            print(f"{task} {where}, {label:<32}", *(f"{s / n:.3f}" for s in solved.values()))
            rows += [
                share(f"root@{budget}", s, n, "as everywhere", what=label, task=task, tool=use_tool)
                for budget, s in solved.items()
            ]
    return rows


GAME_BUDGETS = (64, 256, 1024, 4096)


def game24(folder: Path | None, num: int, budgets: Sequence[int]) -> list[Row]:
    if folder is None:
        why = "no --models; build them: python -m scripts.build_embedded game24 --out DIR"
        return [missing("game24_solved_of_100", why)]
    models = open_models("game24", True, folder)
    problems = models.task.held_out(num, 0)
    top = max(budgets)
    groups = arms.sampled(models, problems, top, 0)
    with timed("search"):
        settings = arms.unlimited(models.settings, 4 * top)
        curves, _ = arms.searched(models, problems, settings, 0)
    found: dict[str, arms.Arm] = {
        "greedy": arms.greedy(models, problems),
        "majority": arms.vote(groups, lambda _: 1.0),
        "best_of_n": arms.best_of_n(groups),
        "tool_filtered": arms.until_sound(models, problems, 4 * top, 0),
        "enumerated": arms.enumerated(models, problems, top),
        "sampled_lines": arms.sampled_lines(models, problems, top, 0),
        "line_of_play": arms.line_of_play(models, problems),
        "search": curves,
    }
    rows = []
    for name, arm in found.items():
        for budget in budgets:
            points = arm.best(budget)
            what = f"{name}, mean of at most {budget} tokens a puzzle"
            solved = sum(arms.solved(models, problems, points))
            spent = round(sum(p.tokens for p in points) / num, 1)
            rows.append(
                share(
                    "game24_solved_of_100",
                    solved,
                    num,
                    what,
                    arm=name,
                    budget=budget,
                    mean_tokens=spent,
                )
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--task", choices=["expressions", "stories"], help="of quality, ablation")
    parser.add_argument(
        "--tool",
        choices=["with", "without", "both"],
        default="both",
        help="calculator in quality and ablation",
    )
    parser.add_argument("--problems", type=int, default=100, help="held-out problems a seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", type=Path, help="folder of the game24 models")
    parser.add_argument("--plot", type=Path, help="PNG of the quality curves; {task} is filled in")
    parser.add_argument("--redraw", type=Path, help="measure nothing: --plot these JSON results")
    parser.add_argument("--quick", action="store_true", help="true but smaller")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    sections = [s for s in arguments.only.split(",") if s] or list(SECTIONS)
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown section {min(unknown)!r}; there are {', '.join(SECTIONS)}")
    if arguments.models is not None and not (arguments.models / "policy").is_dir():
        parser.error(
            f"{arguments.models} holds no policy; build it with python -m scripts.build_embedded"
        )
    if arguments.redraw is not None:
        redraw(arguments.redraw, arguments.plot or Path("search-{task}.png"))
        return
    torch.set_num_threads(1)
    quick = arguments.quick
    if quick and not arguments.only:
        sections = ["speed", "batching", "quality"]
    num = 6 if quick else arguments.problems
    seeds = list(range(1 if quick else arguments.seeds))
    budgets = BUDGETS[:3] if quick else BUDGETS
    tasks = [arguments.task] if arguments.task else ["expressions", "stories"][: 1 if quick else 2]
    rows: list[Row] = []
    for section in sections:
        if section == "speed":
            found = speed(quick)
        elif section == "batching":
            found = batching(quick)
        elif section == "game24":
            found = game24(arguments.models, 10 if quick else 100, GAME_BUDGETS)
        elif section == "replay":
            found = replay(quick)
        else:
            found = []
            for task in tasks:
                plot = arguments.plot and Path(str(arguments.plot).format(task=task))
                if section == "confidence":
                    found += confidence(task, num, seeds, budgets[:4], arguments.tool)
                elif section == "roots":
                    found += roots(task, num, seeds, budgets, arguments.tool)
                elif section == "quality":
                    found += quality(task, num, seeds, budgets, arguments.tool, plot)
                else:
                    found += ablation(task, num, seeds, arguments.tool)
        for row in found:
            show(row)
        rows += found
    settings = {
        "sections": sections,
        "tasks": tasks,
        "tool": arguments.tool,
        "problems_a_seed": num,
        "quick": quick,
    }
    write(arguments.json, "search", settings, seeds, rows)


if __name__ == "__main__":
    main()
