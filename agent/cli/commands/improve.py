"""`ratchet improve`: rounds, or the plan of them."""

import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agent.cli.commands import plan
from agent.cli.output import emit, figures, share
from agent.config.settings import Config
from agent.progress import make_progress
from agent.rounds.evaluation_stage import Figures
from agent.rounds.round import Outcome
from agent.rounds.run import Improver
from agent.tracking import Tracked, log_round, open_tracker
from store.evaluations import Evaluation
from store.states import Stage

NOTHING_DONE = 4
"""Exit code of rounds of which none came to a candidate to compare."""


def run(config: Config, rounds: int, dry_run: bool, fresh: bool, as_json: bool) -> None:
    if dry_run:
        plan.run(config, rounds, as_json)
        return
    plan.check_room(config)
    folder = Path(config.tracking_folder).expanduser()
    settings = {"config": config.digest(), "task": config.task, "seed": config.seed}
    tracker = open_tracker(config.tracking, folder, config.run, settings)
    progress = Tracked(make_progress(quiet=as_json), tracker)
    outcomes: list[dict[str, Any]] = []
    with (
        contextlib.closing(tracker),
        Improver(config, progress, fresh).started() as improver,
    ):
        progress.say(f"run {config.run!r}, store {config.shown_store}, task {config.task}")
        if fresh:
            improver.give_up_open_round()
        for _ in range(rounds):
            outcome = improver.run_round()
            progress.close()
            document = _document(outcome, improver.start_s)
            outcomes.append(document)
            log_round(tracker, outcome.number, document)
            if not as_json:
                _show(outcome, config, improver.start_s)
    if as_json:
        emit({"run": config.run, "store": config.shown_store, "rounds": outcomes})
    if not any(outcome["verdict"].get("n") for outcome in outcomes):
        raise SystemExit(NOTHING_DONE)


def _other_settings(config: Config) -> list[str]:
    """`key=value` of what results depend on and no flag of its own sets."""
    plain = Config().model_dump(mode="json")
    found: list[str] = []
    for name, section in config.model_dump(mode="json").items():
        for key, value in section.items() if isinstance(section, dict) else ():
            if (name, key) == ("checkpoints", "folder"):
                continue  # it has a flag
            if value != plain[name][key] and value is not None:
                text = json.dumps(value) if isinstance(value, list) else value
                found.append(f"{name}.{key}={text}")
    for name in ("answers", "bad_rows", "problems_per_round", "tokens_per_problem", "num_seeds"):
        if getattr(config, name) != plain[name]:
            found.append(f"{name}={getattr(config, name)}")
    if config.seed != plain["seed"]:
        found.append(f"seed={config.seed}")
    return found


def _document(outcome: Outcome, start_s: float) -> dict[str, Any]:
    def side(measured: Figures | None) -> dict[str, Any] | None:
        if measured is None:
            return None
        return {
            "policy": measured.policy,
            "greedy": figures(measured.greedy),
            "search": figures(measured.search),
        }

    return {
        "round": outcome.number,
        "stage": outcome.stage,
        "selection": outcome.selection,
        "verdict": outcome.verdict,
        "before": side(outcome.before),
        "after": side(outcome.after),
        "seconds": {"starting": round(start_s, 1)} | outcome.timings,
        "at_work": outcome.at_work,
    }


def kept_line(selection: dict[str, Any]) -> str:
    """How much of a round was learned from, and what precision may be promised of it."""
    if not selection.get("searches"):
        return ""
    told = f"learned from {selection['kept']} texts of {selection['searches']} searches"
    trust = selection.get("trust")
    if trust is None:
        return told
    if trust["threshold"] is None:
        return f"{told}: no rule reached {trust['aim']:g} on {trust['labelled']} labelled problems"
    return (
        f"{told}; on {trust['labelled']} labelled problems {trust['trusted_right']} of "
        f"{trust['trusted']} trusted answers are right: at least {trust['bound']:.2f} with "
        f"certainty {trust['certainty']:g}"
    )


def work_line(shares: dict[str, float]) -> str:
    """Who was at work while it searched: where nobody is, the search itself is what takes long."""
    told = ", ".join(f"{role} {100 * share:.0f} %" for role, share in shares.items() if share)
    return f"at work while searching: {told}" if told else ""


def _show(outcome: Outcome, config: Config, start_s: float) -> None:
    console = Console()
    grid = Table(title=f"Round {outcome.number}", title_justify="left")
    for name in ("held-out problems", "n", "before", "after"):
        grid.add_column(name)

    def row(name: str, before: Evaluation | None, after: Evaluation | None) -> None:
        if before is None or after is None:
            return
        cells = [share(r.num_correct, r.n, *r.interval) for r in (before, after)]
        grid.add_row(name, str(after.n), *cells)

    if outcome.before and outcome.after:
        row("greedy", outcome.before.greedy, outcome.after.greedy)
        search = "with search" + ("" if config.critics.use_tool else ", no tool")
        row(search, outcome.before.search, outcome.after.search)
        console.print(grid)
    verdict = outcome.verdict
    colour = {Stage.PROMOTED: "green", Stage.KEPT: "yellow"}.get(outcome.stage, "red")
    console.print(f"[{colour}]{outcome.stage}[/]: {verdict.get('reason', '')}", highlight=False)
    if verdict.get("n"):
        console.print(
            f"gate: {verdict['rule']}; difference {100 * verdict['difference']:+.1f} points "
            f"[{100 * verdict['low']:+.1f}, {100 * verdict['high']:+.1f}], n = {verdict['n']}; "
            f"detects {100 * verdict.get('detectable', 1.0):.1f} points and more",
            highlight=False,
        )
    if told := kept_line(outcome.selection):
        console.print(told, highlight=False)
    spent = {"starting": start_s} | outcome.timings
    console.print(
        "seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in spent.items()), highlight=False
    )
    if told := work_line(outcome.at_work.get(Stage.SEARCHING, {})):
        console.print(told, highlight=False)
    console.print(f"store: {config.shown_store}\n", highlight=False)
    default = Config()
    options = {
        "task": config.task,
        "run": config.run,
        "store": config.shown_store,
        "policy": config.policy,
        "problems": config.problems,
        "checkpoints": config.checkpoints.folder,
        "held-out": config.held_out,
        "labelled": config.labelled,
    }
    standard = {
        "checkpoints": default.checkpoints.folder,
        "held-out": default.held_out,
        "labelled": default.labelled,
    }
    given = {
        k: f" --{k} {shlex.quote(str(v))}"
        for k, v in options.items()
        if v != (standard[k] if k in standard else getattr(default, k))
    }
    more = "".join(f" --set {shlex.quote(text)}" for text in _other_settings(config))

    def flags(*names: str) -> str:
        return "".join(given.get(name, "") for name in names)

    question = {
        "expressions": "7+2*3-4+5*6-1",
        "stories": "Ben has 9 pens. Ben loses 4 pens. How many pens does Ben have?",
    }.get(config.task)
    lines = [
        f"ratchet improve{flags(*options)}{more}",
        f"ratchet view{flags('store')}",
        f"ratchet inspect searches --gained{flags('store', 'run')}",
        f"ratchet models{flags('store')}",
    ]
    if question:
        lines[3] = f'ratchet solve "{question}"{flags("task", "store", "run")}'
    console.print("Next:", highlight=False)
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
