"""The command line: data on stdout, talk on stderr, `--json` for programs."""

import importlib
import json
import logging
import os
import signal
import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from search.errors import RatchetError

app = typer.Typer(
    name="ratchet", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    rich_markup_mode="markdown", help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
inspect_app = typer.Typer(no_args_is_help=True, help="Read what the store holds.")
config_app = typer.Typer(no_args_is_help=True, help="Show the settings in force.")
app.add_typer(inspect_app, name="inspect")
app.add_typer(config_app, name="config")

ConfigFile = Annotated[str, typer.Option("--config", help="TOML file; ratchet.toml if it is there")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="any setting, as section.key=value; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="SQLAlchemy URL of the store")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the run")]
TaskName = Annotated[str | None, typer.Option("--task", help="expressions, stories or jsonl")]
Policy = Annotated[str | None, typer.Option("--policy", help="checkpoint directory")]
Problems = Annotated[str | None, typer.Option("--problems", help="JSONL file for --task jsonl")]
Seed = Annotated[int | None, typer.Option("--seed", help="of everything random")]
Simulations = Annotated[int | None, typer.Option("--simulations", help="evaluated nodes a search")]
Hosting = Annotated[str | None, typer.Option("--hosting", help="ray, or inline (this process)")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Ray cluster to join")]


def _command(name: str) -> Any:
    """A command's module, imported when it is wanted: help must not wait for torch."""
    return importlib.import_module(f"agent.commands.{name}")


def _flags(given: list[str] | None, **named: Any) -> dict[str, Any]:
    """Flags by dotted key; `--set` comes first, so that a named flag wins."""
    flags: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
        flags[key.strip()] = value.strip()
    flags |= {key.replace("__", "."): v for key, v in named.items() if v is not None}
    return flags


@app.command("improve")
def improve_command(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="rounds to finish")] = 1,
    problems_per_round: Annotated[int | None, typer.Option("--problems-per-round")] = None,
    simulations: Simulations = None,
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    store: StoreUrl = None,
    checkpoints: Annotated[str | None, typer.Option("--checkpoints", help="folder")] = None,
    run: RunName = None,
    seed: Seed = None,
    ray_address: RayAddress = None,
    hosting: Hosting = None,
    no_tool: Annotated[bool, typer.Option("--no-tool", help="search without the tool")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan and its cost")] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="give an unfinished round up and start the next one")
    ] = False,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Run self-improvement rounds; goes on where an interrupted one stopped.

    Examples:

        ratchet improve

        ratchet improve --rounds 3 --task stories --run stories

        ratchet improve --task jsonl --problems train.jsonl --policy ./my-llama --dry-run
    """
    flags = _flags(
        set_, problems_per_round=problems_per_round, search__simulations=simulations,
        policy=policy, task=task, problems=problems, store=store, checkpoints=checkpoints, run=run,
        seed=seed, hosting__ray_address=ray_address, hosting__hosting=hosting,
        critics__use_tool=False if no_tool else None,
    )  # fmt: skip
    _command("improve").run(flags, config, rounds, dry_run, fresh, as_json)


@app.command("solve")
def solve_command(
    question: Annotated[str, typer.Argument(help="the problem; `-` reads it from stdin")],
    simulations: Simulations = None,
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    store: StoreUrl = None,
    run: RunName = None,
    seed: Seed = None,
    hosting: Hosting = None,
    no_tool: Annotated[bool, typer.Option("--no-tool", help="search without the tool")] = False,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Search for the answer to one question and show how it was found.

    The models are those of the run's last round, or the embedded ones before the first.

    Examples:

        ratchet solve "7+2*3-4+5*6-1"

        ratchet solve --task stories --json - < question.txt
    """
    flags = _flags(
        set_, search__simulations=simulations, policy=policy, task=task, problems=problems,
        store=store, run=run, seed=seed, hosting__hosting=hosting or "inline",
        critics__use_tool=False if no_tool else None,
    )  # fmt: skip
    text = sys.stdin.read() if question == "-" else question
    _command("solve").run(text, flags, config, as_json)


@app.command("evaluate")
def evaluate_command(
    mode: Annotated[
        list[str] | None,
        typer.Option("--mode", help="greedy, majority, best-of-n, wordings or search; repeatable"),
    ] = None,
    num_problems: Annotated[int, typer.Option("--num-problems", min=1, help="held-out")] = 200,
    samples: Annotated[int, typer.Option("--samples", min=1, help="texts a problem")] = 8,
    budget: Annotated[
        list[int] | None,
        typer.Option("--simulations", help="budget of mode search; repeatable"),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A B", help="two policies: directories or versions"),
    ] = None,
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    store: StoreUrl = None,
    run: RunName = None,
    seed: Seed = None,
    hosting: Hosting = None,
    no_tool: Annotated[bool, typer.Option("--no-tool", help="search without the tool")] = False,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure a policy on held-out problems, each accuracy with n, interval and tokens.

    Examples:

        ratchet evaluate

        ratchet evaluate --mode greedy --mode search --simulations 4 --simulations 16

        ratchet evaluate --compare ./before ./after --num-problems 600
    """
    flags = _flags(
        set_, policy=policy, task=task, problems=problems, store=store, run=run, seed=seed,
        hosting__hosting=hosting or "inline", critics__use_tool=False if no_tool else None,
    )  # fmt: skip
    if compare:
        _command("compare").run(compare, num_problems, flags, config, as_json)
        return
    _command("evaluate").run(
        mode or [], num_problems, samples, budget or [], flags, config, as_json
    )


@app.command("models")
def models_command(store: StoreUrl = None, config: ConfigFile = "", as_json: Json = False) -> None:
    """List the checkpoints with their lineage and what was measured of them.

    Examples:

        ratchet models

        ratchet models --json
    """
    _command("models").run(_flags(None, store=store), config, as_json)


@app.command("status")
def status_command(
    store: StoreUrl = None, run: RunName = None, config: ConfigFile = "", as_json: Json = False
) -> None:
    """Show who works on a run, its open round, and the health of its actors.

    Examples:

        ratchet status

        ratchet status --run stories --json
    """
    _command("status").run(_flags(None, store=store, run=run), config, as_json)


@app.command("doctor")
def doctor_command(store: StoreUrl = None, config: ConfigFile = "", as_json: Json = False) -> None:
    """Check this machine: versions, security floors, disk, store, devices.

    Examples:

        ratchet doctor

        ratchet doctor --json
    """
    _command("doctor").run(_flags(None, store=store), config, as_json)


@app.command("migrate")
def migrate_command(store: StoreUrl = None, config: ConfigFile = "") -> None:
    """Bring a store of an earlier version up to date. Back it up first.

    Examples:

        ratchet migrate

        ratchet migrate --store sqlite:////data/ratchet.db
    """
    loaded, _ = _command("settings").load(_flags(None, store=store), config)
    importlib.import_module("store.database").migrate(loaded.store)
    print(f"{loaded.store} is up to date", file=sys.stderr)


@config_app.command("show")
def config_show(
    origin: Annotated[
        bool, typer.Option("--origin", help="say where each value comes from")
    ] = False,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Print every setting in force.

    Examples:

        ratchet config show --origin

        RATCHET_SEARCH__SIMULATIONS=4 ratchet config show --origin --json
    """
    _command("settings").run(origin, _flags(set_), config, as_json)


@inspect_app.command("rounds")
def inspect_rounds(store: StoreUrl = None, config: ConfigFile = "", as_json: Json = False) -> None:
    """All rounds: stage, problems solved, accuracy before and after, verdict.

    Examples:

        ratchet inspect rounds

        ratchet inspect rounds --json
    """
    _command("inspection").rounds(_flags(None, store=store), config, as_json)


@inspect_app.command("critics")
def inspect_critics(
    store: StoreUrl = None, run: RunName = None, config: ConfigFile = "", as_json: Json = False
) -> None:
    """What the outcome critic gave to searches, against the truth, by round (drift).

    Examples:

        ratchet inspect critics

        ratchet inspect critics --json
    """
    _command("inspection").critics(_flags(None, store=store, run=run), config, as_json)


@inspect_app.command("searches")
def inspect_searches(
    round_number: Annotated[int | None, typer.Option("--round", help="only this round")] = None,
    unsolved: Annotated[bool, typer.Option("--unsolved", help="only those not solved")] = False,
    gained: Annotated[bool, typer.Option("--gained", help="solved, though not greedily")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 20,
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Searches of a run, newest round first.

    Examples:

        ratchet inspect searches --gained

        ratchet inspect searches --round 1 --unsolved --limit 50
    """
    flags = _flags(None, store=store, run=run)
    _command("inspection").searches(flags, config, round_number, unsolved, gained, limit, as_json)


@inspect_app.command("tree")
def inspect_tree(
    search_id: Annotated[int, typer.Argument(help="number of a search")],
    after: Annotated[
        int | None, typer.Option("--after", min=0, help="as it was after so many simulations")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="also options that were never taken")] = False,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """One search as a tree: N, Q, P and critic scores of every node.

    Examples:

        ratchet inspect tree 17

        ratchet inspect tree 17 --all

        ratchet inspect tree 17 --after 3
    """
    _command("inspection").tree(_flags(None, store=store), config, search_id, after, all_, as_json)


@inspect_app.command("trajectories")
def inspect_trajectories(
    round_number: Annotated[int | None, typer.Option("--round", help="only this round")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="only those that were trained on")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 5,
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Finished texts with their scores.

    Examples:

        ratchet inspect trajectories --kept

        ratchet inspect trajectories --round 2 --limit 100 --json
    """
    flags = _flags(None, store=store, run=run)
    _command("inspection").trajectories(flags, config, round_number, kept, limit, as_json)


@inspect_app.command("sql")
def inspect_sql(
    statement: Annotated[str, typer.Argument(help="one SELECT")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 1000,
    timeout: Annotated[float, typer.Option("--timeout", min=0.01, help="seconds")] = 1.0,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Answer one question in SQL, read-only, bounded in time and rows.

    Examples:

        ratchet inspect sql "SELECT stop_reason, count(*) FROM searches GROUP BY 1"

        ratchet inspect sql "SELECT * FROM trajectories WHERE NOT is_correct" --limit 5 --json
    """
    _command("inspection").sql(
        _flags(None, store=store), config, statement, limit, timeout, as_json
    )


@inspect_app.command("check")
def inspect_check(store: StoreUrl = None, config: ConfigFile = "", as_json: Json = False) -> None:
    """Verify the store's invariants; exit code 7 when one is broken.

    Examples:

        ratchet inspect check

        ratchet inspect check --json
    """
    _command("inspection").check(_flags(None, store=store), config, as_json)


def report(error: RatchetError, as_json: bool) -> None:
    """What went wrong, and the way out, on stderr."""
    if as_json:
        document = {"error": {"code": type(error).__name__, "message": error.message,
                              "next": error.fix}}  # fmt: skip
        print(json.dumps(document), file=sys.stderr)
        return
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(f"[red]Error:[/] {escape(error.message)}")
    if error.fix:
        console.print(f"[bold]Fix:[/] {escape(error.fix)}")


class _Stopped(BaseException):
    """A signal asked the process to end; not an Exception, so that nothing swallows it."""

    def __init__(self, code: int) -> None:
        self.code = code


def _stop(number: int, _: object) -> NoReturn:
    raise _Stopped(128 + number)


def main() -> None:
    """Entry point: every error of ours becomes a message, a fix and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        app()
    except RatchetError as error:
        report(error, "--json" in sys.argv)
        if os.environ.get("RATCHET_DEBUG") == "1":
            traceback.print_exc()
        raise SystemExit(error.exit_code) from None
    except _Stopped as stopped:
        print("\nStopped; what was committed is saved. Run the same command to go on.",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(stopped.code) from None


if __name__ == "__main__":
    main()
