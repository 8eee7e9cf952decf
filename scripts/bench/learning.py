"""How much do rounds teach? Held-out accuracy over bases, seeds and rounds, with controls.

    python -m scripts.bench.learning                       # 2 rounds, 3 seeds
    python -m scripts.bench.learning --base DIR --base DIR # several base bundles
    python -m scripts.bench.learning --task stories
    python -m scripts.bench.learning --rounds 5 --seeds 1 --arm loop --curve curve.png
    python -m scripts.bench.learning --quick               # small, under a minute

Each (base, seed, arm) is a run of its own with its own imagined problems, searches, training and
gate; the held-out problems are drawn with a seed that no tuning looked at, the same for all arms.

    loop             the product as it is
    no-tool          without the calculator: a checker, which learned from labelled problems, works
                     steps out again, and a rule that others have shown to be right chooses
    votes            without calculator and checker: answers to eight wordings of each problem, as
                     many views besides, and the ladder
    demonstrations   as many steps, on the base's demonstrations alone (the loop's step counts)
    unfiltered       as many steps, on one sampled text of each of the loop's problems, unfiltered

Runs that are finished are kept in --folder and not repeated, so the same command prints the table
again, and one with more --rounds goes on. Everything runs in this process, one
thread; a round's stages are timed. Two rounds take about ten minutes a run on one idle core.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from agent.checkpoints.custody import current_models
from agent.checkpoints.model_refs import ModelRef
from agent.config.load import load_config
from agent.config.settings import Config
from agent.evaluation.answering import Plan, evaluate, sample_rollouts
from agent.progress import Silent
from agent.rounds.evaluation_stage import EvaluationStage
from agent.rounds.run import Improver
from agent.tasks.registry import open_task
from agent.training.examples import Example
from agent.training.job import Place
from agent.training.methods.sft import SftJob
from agent.training.mixture import mixed_examples
from agent.training.recipe import policy_settings
from agent.training.rehearsal import drawn
from scripts.bench.report import missing, repeats, share, show, write
from search.errors import RatchetError
from store.datasets import selected_report
from store.evaluations import Evaluation
from store.recording import as_problem
from store.schema import (
    CheckpointRow,
    DatasetItem,
    DatasetRow,
    Event,
    ProblemRow,
    Round,
    SearchRow,
    TrajectoryRow,
)
from store.states import PROBE

HELD_OUT_SEED = 20_261_123
ARMS = ("loop", "no-tool", "votes", "demonstrations", "unfiltered")
LOOPS = ("loop", "no-tool", "votes")
"""Arms that are rounds of the product."""
NO_TOOL = {
    "critics.use_tool": False,
    "critics.num_labelled": 1000,
    "critics.samples": 6,
    "critics.steps": 200,
    "problems_per_round": 2800,
}
CHECKED = {"critics.checker_steps": 800}
VOTED = {
    "imagination.wordings": 7,
    "imagination.ladder": True,
    "voting.wordings": 8,
    "search.simulations": 8,
    "tokens_per_problem": 200,
}
QUICK = {
    "problems_per_round": 80,
    "training.num_steps": 30,
    "critics.steps": 10,
    "critics.num_labelled": 30,
    "evaluation.num_problems": 150,
    "evaluation.num_search_problems": 20,
    "training.drafter_steps": 10,
}
Run = dict[str, Any]
"""What one (base, seed, arm) came to: a list of states, the start and after each round."""


def settings(arguments: argparse.Namespace, base: str, seed: int, arm: str, folder: Path) -> Config:
    flags: dict[str, Any] = {
        "task": arguments.task,
        "seed": seed,
        "hosting.hosting": "inline",
        "store": f"sqlite:///{folder}/store.db",
        "checkpoints": f"{folder}/checkpoints",
        "evaluation.seed": HELD_OUT_SEED,
    }
    if base:
        flags["bundle"] = base
    if arm in ("no-tool", "votes"):
        flags |= NO_TOOL | (CHECKED if arm == "no-tool" else VOTED)
    if arguments.quick:
        flags |= QUICK
    flags |= dict(text.split("=", 1) for text in arguments.set or [])
    return load_config(flags)[0]


def figures(report: Evaluation) -> dict[str, Any]:
    """Counts, and by difficulty the solved share."""
    return {
        "correct": report.num_correct,
        "n": report.n,
        "tokens": report.num_tokens / report.n,
        "items": report.correct,
    }


def state(improver: Improver, config: Config) -> dict[str, Any]:
    """Held-out figures of the models in use now."""
    refs = current_models(improver.store, improver.run_id, print) or improver.models
    found = EvaluationStage(improver.context()).figures(refs, None)
    return {
        "policy": refs["policy"].version,
        "greedy": figures(found.greedy),
        "search": figures(found.search) if found.search else None,
        "bits_per_character": found.bits_per_character,
    }


def loop(improver: Improver, config: Config, rounds: int, states: list[dict[str, Any]]) -> Run:
    """Rounds of the product, after those whose `states` are known; after each what it came to."""
    states = states or [state(improver, config)]
    while len(states) <= rounds:
        outcome = improver.run_round()
        states.append(
            state(improver, config)
            | {
                "verdict": outcome.stage,
                "reason": outcome.verdict.get("reason"),
                "p": outcome.verdict.get("p"),
                "seconds": outcome.timings,
            }
            | read_round(improver, outcome.number)
        )
    return {"states": states}


def read_round(improver: Improver, number: int) -> dict[str, Any]:
    """What the store says of a round: finds, their precision, critics, drafter, imagination."""
    with improver.store.session() as session:
        row = session.scalars(
            select(Round).where(Round.run_id == improver.run_id, Round.number == number)
        ).one()
        kept = session.execute(
            select(TrajectoryRow.is_correct)
            .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
            .join(DatasetRow, DatasetRow.id == DatasetItem.dataset_id)
            .where(DatasetRow.round_id == row.id)
        ).all()
        reports = {
            c.role: {k: v for k, v in c.report.items() if k != "reliability"}
            for c in session.scalars(select(CheckpointRow).where(CheckpointRow.round_id == row.id))
        }
        event = session.scalars(
            select(Event).where(Event.round_id == row.id, Event.kind == "imagined")
        ).first()
        known = [c for (c,) in kept if c is not None]
        return {
            "num_problems": selected_report(session, row.id).get("searches", row.num_problems),
            "num_kept": len(kept),
            "precision": sum(known) / len(known) if known else None,
            "reports": reports,
            "imagined": event.payload if event else None,
        }


def control(
    improver: Improver,
    config: Config,
    rounds: Sequence[dict[str, Any]],
    arm: str,
    loop_store: Improver | None,
) -> Run:
    """The base trained for as many steps a round as the loop, on texts that no critic chose."""
    policy = improver.inputs.base["policy"]
    base = policy_settings(config.training, policy).model_copy(update={"max_epochs": 1e6})
    refs = dict(improver.models)
    states = [state(improver, config)]
    problems = improver.inputs.task.held_out(config.num_held_out, HELD_OUT_SEED)
    texts: list[Example] = []
    for number, made in enumerate(rounds, 1):
        if "policy" not in made["reports"]:  # a round that learned nothing
            states.append(states[-1])
            continue
        steps = made["reports"]["policy"]["num_steps"]
        num_rows = steps * base.batch_size
        replayed = drawn(improver.inputs.demonstrations, num_rows, config.seed + number)
        rows = mixed_examples(replayed, [], 0, num_rows, config.seed + number)
        if arm == "unfiltered":
            assert loop_store is not None
            texts += sampled(improver, refs, loop_store, number, config.seed)
            rows = mixed_examples(
                texts, replayed, config.training.replay_share, num_rows, config.seed + number
            )
        job = SftJob(
            role="policy",
            parent=refs["policy"].path,
            settings=base.model_copy(update={"num_steps": steps}),
            seed=config.seed + number,
            examples=rows,
        )
        refs["policy"] = job.run(Place(str(improver.trainer.folder))).ref()
        models = improver.context().models_for(refs)
        states.append(
            {
                "policy": refs["policy"].version,
                "greedy": figures(evaluate(models, problems, Plan("greedy"))),
                "search": None,
                "num_steps": steps,
            }
        )
    return {"states": states}


def sampled(
    improver: Improver, refs: dict[str, ModelRef], source: Improver, number: int, seed: int
) -> list[Example]:
    """One text of the policy, whatever it says, for each problem that the loop searched."""
    with source.store.session() as session:
        rows = session.scalars(
            select(ProblemRow)
            .join(SearchRow, SearchRow.problem_id == ProblemRow.id)
            .join(Round, Round.id == SearchRow.round_id)
            .where(Round.number == number, ProblemRow.origin != PROBE)
            .order_by(SearchRow.position)
        )
        problems = [as_problem(p) for p in rows]
    models = improver.context().models_for(refs)
    found = []
    for start in range(0, len(problems), 500):
        groups = sample_rollouts(models, problems[start : start + 500], 1, 1.0, seed)
        found += [
            Example(r.state.tokens, len(r.state.prompt_tokens))
            for group in groups
            for r in group
            if r.state.is_finished
        ]
    return found


def one(arguments: argparse.Namespace, base: str, seed: int, arm: str) -> Run | None:
    """One run, or what it came to when it was made before; None where only such are wanted."""
    name = Path(base).parent.name if base else "shipped"
    folder = arguments.folder.resolve() / f"{arguments.task}-{name}-{seed}-{arm}"
    done = folder / "run.json"
    before: list[dict[str, Any]] = []
    if done.is_file():
        found: Run = json.loads(done.read_text())
        if len(found["states"]) > arguments.rounds:
            return found
        before = found["states"]
    if arguments.finished:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    config = settings(arguments, base, seed, arm, folder)
    started = time.monotonic()
    source_arm = next((arm for arm in LOOPS if arm in (arguments.arm or LOOPS)), "loop")
    loop_folder = folder.parent / f"{arguments.task}-{name}-{seed}-{source_arm}"
    with Improver(config, Silent()).started() as improver:
        if arm in LOOPS:
            run = loop(improver, config, arguments.rounds, before)
        else:
            rounds = json.loads((loop_folder / "run.json").read_text())["states"][1:]
            source = None
            if arm == "unfiltered":
                of = settings(arguments, base, seed, source_arm, loop_folder)
                source = Improver(of, Silent())
            run = control(improver, config, rounds[: arguments.rounds], arm, source)
    run |= {"base": name, "seed": seed, "arm": arm, "seconds": time.monotonic() - started}
    done.write_text(json.dumps(run))
    return run


def removed(before: float, after: float) -> float:
    """Share of the errors that are gone."""
    return (after - before) / (1 - before) if before < 1 else 0.0


def accuracy(run: Run, place: int, mode: str = "greedy") -> float | None:
    found = run["states"][place][mode]
    return found["correct"] / found["n"] if found else None


def line(run: Run) -> str:
    """One row of the table for people."""
    greedy = " -> ".join(f"{accuracy(run, i):6.1%}" for i in range(len(run["states"])))
    search = " -> ".join(
        f"{a:6.1%}" for i in range(len(run["states"])) if (a := accuracy(run, i, "search"))
    )
    gone = removed(accuracy(run, 0) or 0, accuracy(run, -1) or 0)
    verdicts = ", ".join(s.get("verdict", "") for s in run["states"][1:])
    return (
        f"{run['base']:<9} {run['seed']:>4}  {run['arm']:<15} {greedy}   {gone:6.1%}   "
        f"{search or '-':<28} {verdicts}  {run['seconds']:.0f} s"
    )


def pooled(runs: Sequence[Run], place: int, mode: str = "greedy") -> tuple[int, int]:
    found = [r["states"][place][mode] for r in runs if r["states"][place][mode]]
    return sum(f["correct"] for f in found), sum(f["n"] for f in found)


def summary(runs: Sequence[Run], rounds: int, task: str) -> list[dict[str, Any]]:
    """Rows over all bases and seeds. A pooled share has its Wilson interval; errors removed are
    the median over runs with their range."""
    rows: list[dict[str, Any]] = []
    target = {"loop": 0.6} if runs and rounds == 2 else {}
    for arm in ARMS:
        mine = [r for r in runs if r["arm"] == arm]
        if not mine:
            rows.append(missing(f"greedy_after_{rounds}_{arm}", "not run"))
            continue
        if arm == "loop":
            rows.append(share("greedy_before", *pooled(mine, 0), "the bases"))
        rows.append(share(f"greedy_after_{rounds}_{arm}", *pooled(mine, rounds), "greedy_before"))
        gone = [removed(accuracy(r, 0) or 0, accuracy(r, rounds) or 0) for r in mine]
        name = {"loop": "greedy_errors_removed", "demonstrations": "control_errors_removed"}
        extra = {"target": target[arm]} if arm in target else {}
        rows.append(
            repeats(name.get(arm, f"{arm}_errors_removed"), gone, "share", "the bases", **extra)
        )
        searched = [r for r in mine if r["states"][rounds]["search"]]
        if searched:
            rows.append(share(f"search_before_{arm}", *pooled(searched, 0, "search"), "no round"))
            rows.append(
                share(
                    f"search_after_{rounds}_{arm}",
                    *pooled(searched, rounds, "search"),
                    "search_before",
                )
            )
            gone = [
                removed(accuracy(r, 0) or 0, accuracy(r, rounds, "search") or 0) for r in searched
            ]
            rows.append(repeats(f"search_errors_removed_{arm}", gone, "share", "greedy_before"))
        if arm in LOOPS:
            rows += difficulty_rows(mine, rounds, task, "" if arm == "loop" else f"_{arm}")
            rows += round_rows(mine, arm)
    return rows


def difficulty_rows(
    runs: Sequence[Run], rounds: int, task: str, label: str
) -> list[dict[str, Any]]:
    """Solved share by the task's own measure of difficulty, before and after, greedily."""
    n = runs[0]["states"][0]["greedy"]["n"]
    level = {p.id: p.difficulty for p in open_task(Config(task=task)).held_out(n, HELD_OUT_SEED)}
    rows = []
    for place, when in ((0, "before"), (rounds, f"after_{rounds}")):
        for difficulty in sorted({d for d in level.values() if d is not None}):
            found = [
                is_right
                for r in runs
                for key, is_right in r["states"][place]["greedy"]["items"].items()
                if level.get(key) == difficulty
            ]
            name = f"solved_{difficulty:g}_{when}{label}"
            rows.append(share(name, sum(found), len(found), "greedy"))
    return rows


def round_rows(runs: Sequence[Run], arm: str) -> list[dict[str, Any]]:
    """Medians over all rounds of all runs."""
    rounds = [s for r in runs for s in r["states"][1:]]
    rows: list[dict[str, Any]] = []

    def add(name: str, values: Sequence[float | None], unit: str, baseline: str) -> None:
        known = [v for v in values if v is not None]
        if known:
            rows.append(repeats(f"{name}_{arm}", known, unit, baseline))

    for role in ("value", "process", "outcome"):
        add(
            f"auc_{role}",
            [s["reports"].get(role, {}).get("auc") for s in rounds],
            "AUC",
            "held-out labelled texts",
        )
    add("filter_precision", [s["precision"] for s in rounds], "share", "answers kept hidden")
    add(
        "kept_share",
        [s["num_kept"] / max(1, s["num_problems"]) for s in rounds],
        "share",
        "problems searched",
    )
    add(
        "drafter_acceptance",
        [s["reports"].get("drafter", {}).get("acceptance") for s in rounds],
        "share",
        "overlap of the distributions at T 1",
    )
    add("seconds_per_round", [sum(s["seconds"].values()) for s in rounds], "s", "whole rounds")
    for stage in ("searching", "training", "evaluating"):
        add(f"seconds_{stage}", [s["seconds"].get(stage) for s in rounds], "s", "of the round")
    return rows


def curve(runs: Sequence[Run], path: Path) -> None:
    """Greedy, search and bits per character by round."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for number, run in enumerate(runs):
        places = range(len(run["states"]))
        label = f"{run['arm']}, {run['base']} {run['seed']}"
        colour = f"C{number}"
        left.plot(places, [accuracy(run, i) for i in places], "o-", color=colour)
        found = [(i, accuracy(run, i, "search")) for i in places]
        points = [(i, a) for i, a in found if a is not None]
        if points:
            left.plot(*zip(*points, strict=True), "s:", color=colour)
        bits = [(i, s.get("bits_per_character")) for i, s in enumerate(run["states"])]
        known = [(i, b) for i, b in bits if b is not None]
        right.plot(
            *zip(*(known or [(0, float("nan"))]), strict=True), "o-", color=colour, label=label
        )
    rounds = range(max(len(run["states"]) for run in runs))
    left.set(xlabel="round", ylabel="held-out: greedy (line), search (dots)", ylim=(0, 1.02))
    right.set(xlabel="round", ylabel="bits per character")
    for axes in (left, right):
        axes.set_xticks(list(rounds))
    right.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="expressions", choices=["expressions", "stories"])
    parser.add_argument("--base", action="append", help="bundle folder; default: the shipped one")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--arm", action="append", choices=ARMS, help="default: all")
    parser.add_argument("--folder", type=Path, default=Path("ratchet-runs/bench"))
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="any setting")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--finished", action="store_true", help="only runs made before; run none")
    parser.add_argument("--curve", type=Path, help="also plot the rounds")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = (
        [0]
        if arguments.quick
        else list(range(arguments.first_seed, arguments.first_seed + arguments.seeds))
    )
    if arguments.quick:
        arguments.rounds = 1
        arguments.folder = arguments.folder / "quick"
    print("base      seed  arm             greedy by round    errors gone   search    verdicts")
    runs: list[Run] = []
    for base in arguments.base or [""]:
        for seed in seeds:
            for arm in arguments.arm or (ARMS[:1] if arguments.quick else ARMS):
                try:
                    run = one(arguments, base, seed, arm)
                except RatchetError as error:
                    sys.exit(f"Error: {error.message}\nFix: {error.fix}")
                if run is not None:
                    runs.append(run)
                    print(line(run), flush=True)
    if not runs:
        sys.exit("Error: no run of that kind is finished\nFix: leave --finished out")
    rows = summary(runs, arguments.rounds, arguments.task)
    for r in rows:
        show(r)
    if arguments.curve:
        curve(runs, arguments.curve)
    used = {
        "task": arguments.task,
        "rounds": arguments.rounds,
        "quick": arguments.quick,
        "held_out_seed": HELD_OUT_SEED,
        "no_tool": NO_TOOL,
        "set": arguments.set,
    }
    write(arguments.json, "learning", used, seeds, rows)


if __name__ == "__main__":
    main()
