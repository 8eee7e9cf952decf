"""`ratchet inspect`: what the store holds, and questions to it."""

from typing import Annotated

import typer

from agent.cli.options import (
    MAX_ID,
    MAX_NUMBER,
    ConfigFile,
    Json,
    RunName,
    StoreUrl,
    Timeout,
    flags_of,
    settings_of,
)

inspect_app = typer.Typer(no_args_is_help=True, help="Read what the store holds.")


@inspect_app.command("rounds")
def inspect_rounds(
    store: StoreUrl = None, run: RunName = None, config: ConfigFile = "", as_json: Json = False
) -> None:
    """All rounds, or those of one run: stage, searches, problems solved, models, verdict.

    Examples:

        ratchet inspect rounds

        ratchet inspect rounds --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import inspect_store

    inspect_store.rounds(settings, run, as_json)


@inspect_app.command("critics")
def inspect_critics(
    store: StoreUrl = None, run: RunName = None, config: ConfigFile = "", as_json: Json = False
) -> None:
    """What the outcome critic gave to searches, against the truth, by round (drift).

    Examples:

        ratchet inspect critics

        ratchet inspect critics --json
    """
    settings = settings_of(flags_of(None, store=store, run=run), config)
    from agent.cli.commands import inspect_store

    inspect_store.critics(settings, as_json)


@inspect_app.command("searches")
def inspect_searches(
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, max=MAX_NUMBER, help="only this round")
    ] = None,
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
    flags = flags_of(None, store=store, run=run)
    settings = settings_of(flags, config)
    from agent.cli.commands import inspect_store

    inspect_store.searches(settings, round_number, unsolved, gained, limit, as_json)


@inspect_app.command("tree")
def inspect_tree(
    search_id: Annotated[int, typer.Argument(min=0, max=MAX_ID, help="number of a search")],
    after: Annotated[
        int | None,
        typer.Option(
            "--after", min=0, max=MAX_NUMBER, help="as it was after this many simulations"
        ),
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
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import inspect_store

    inspect_store.tree(settings, search_id, after, all_, as_json)


@inspect_app.command("samples")
def inspect_samples(
    round_number: Annotated[
        int | None,
        typer.Option(
            "--round", min=0, max=MAX_NUMBER, help="whose policy; the last one by default"
        ),
    ] = None,
    mode: Annotated[str, typer.Option("--mode", help="greedy, search, ...")] = "greedy",
    right: Annotated[bool, typer.Option("--right", help="only right ones")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="only wrong ones")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 5,
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """What a policy wrote for held-out problems, with the reference answers.

    Examples:

        ratchet inspect samples --wrong

        ratchet inspect samples --round 0 --mode search --limit 20 --json
    """
    settings = settings_of(flags_of(None, store=store, run=run), config)
    from agent.cli.commands import inspect_store

    choice = None if right == wrong else right
    inspect_store.samples(settings, round_number, mode, choice, limit, as_json)


@inspect_app.command("trajectories")
def inspect_trajectories(
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, max=MAX_NUMBER, help="only this round")
    ] = None,
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
    flags = flags_of(None, store=store, run=run)
    settings = settings_of(flags, config)
    from agent.cli.commands import inspect_store

    inspect_store.trajectories(settings, round_number, kept, limit, as_json)


@inspect_app.command("siblings")
def inspect_siblings(
    search_id: Annotated[int, typer.Argument(min=0, max=MAX_ID, help="number of a search")],
    node: Annotated[
        int, typer.Argument(min=0, max=MAX_NUMBER, help="the node whose options are compared")
    ] = 0,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """The options of one node, most visited first, each with how it differs from the first.

    Examples:

        ratchet inspect siblings 17

        ratchet inspect siblings 17 4 --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import inspect_store

    inspect_store.siblings(settings, search_id, node, as_json)


@inspect_app.command("compare")
def inspect_compare(
    before: Annotated[
        int, typer.Argument(min=0, max=MAX_NUMBER, help="a round; 0: before the first one")
    ],
    after: Annotated[int, typer.Argument(min=0, max=MAX_NUMBER, help="another round")],
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Two rounds on the same held-out problems: gained, lost, same, difference with interval.

    Examples:

        ratchet inspect compare 0 1

        ratchet inspect compare 1 3 --run long --json
    """
    settings = settings_of(flags_of(None, store=store, run=run), config)
    from agent.cli.commands import inspect_store

    inspect_store.compare(settings, before, after, as_json)


@inspect_app.command("plot")
def inspect_plot(
    out: Annotated[str, typer.Option("--out", help="a file: .png, .svg or .pdf")] = "run.png",
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
) -> None:
    """A picture of a run: accuracy by round, calibration of the critics, drafts, search values.

    Examples:

        ratchet inspect plot

        ratchet inspect plot --run long --out long.svg
    """
    settings = settings_of(flags_of(None, store=store, run=run), config)
    from agent.cli.commands import inspect_store

    inspect_store.plot(settings, out)


@inspect_app.command("sql")
def inspect_sql(
    statement: Annotated[str, typer.Argument(help="one SELECT")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 1000,
    timeout: Timeout = 1.0,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Answer one question in SQL, read-only, bounded in time and rows.

    Examples:

        ratchet inspect sql "SELECT stop_reason, count(*) FROM searches GROUP BY 1"

        ratchet inspect sql "SELECT * FROM trajectories WHERE NOT is_correct" --limit 5 --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import inspect_store

    inspect_store.sql(settings, statement, limit, timeout, as_json)


@inspect_app.command("ask")
def inspect_ask(
    question: Annotated[str, typer.Argument(help="its name; without one, all are listed")] = "",
    round_number: Annotated[
        int | None,
        typer.Option("--round", min=1, max=MAX_NUMBER, help="the run's last one by default"),
    ] = None,
    search: Annotated[
        int | None, typer.Option("--search", min=0, max=MAX_ID, help="number of a search")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", help="its version")] = None,
    sql: Annotated[bool, typer.Option("--sql", help="print the SELECT instead")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000)] = 50,
    timeout: Timeout = 10.0,
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Answer a question by its name: progress, gained, flips, cost, lineage and more.

    Examples:

        ratchet inspect ask

        ratchet inspect ask cost --round 2

        ratchet inspect ask principal_variation --search 17

        ratchet inspect ask lineage --sql
    """
    given = {"round": round_number, "search": search, "checkpoint": checkpoint}
    flags = flags_of(None, store=store, run=run)
    settings = settings_of(flags, config)
    from agent.cli.commands import inspect_store

    inspect_store.ask(settings, question, given, sql, limit, timeout, as_json)
