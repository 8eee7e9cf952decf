"""`ratchet store`: make it, check it, bring it up to date, trim it, and take training sets out."""

from typing import Annotated

import typer

from agent.cli.options import (
    MAX_NUMBER,
    ConfigFile,
    Json,
    Problems,
    RunName,
    StoreUrl,
    TaskName,
    flags_of,
    settings_of,
)

store_app = typer.Typer(no_args_is_help=True, help="Look after the store.")


@store_app.command("init")
def store_init(store: StoreUrl = None, config: ConfigFile = "") -> None:
    """Create the tables of an empty store. `ratchet improve` does it by itself.

    Examples:

        ratchet store init

        ratchet store init --store postgresql+psycopg://ratchet@db/ratchet
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import store_upkeep

    store_upkeep.init(settings)


@store_app.command("check")
def store_check(store: StoreUrl = None, config: ConfigFile = "", as_json: Json = False) -> None:
    """Verify the store's invariants; exit code 7 when one is broken.

    Examples:

        ratchet store check

        ratchet store check --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import store_upkeep

    store_upkeep.check(settings, as_json)


@store_app.command("migrate")
def store_migrate(store: StoreUrl = None, config: ConfigFile = "") -> None:
    """Bring a store of an earlier version up to date. Back it up first.

    Examples:

        ratchet store migrate

        ratchet store migrate --store sqlite:////data/ratchet.db
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import store_upkeep

    store_upkeep.migrate_store(settings)


@store_app.command("vacuum")
def store_vacuum(
    keep: Annotated[
        int, typer.Option("--keep", min=1, max=MAX_NUMBER, help="last rounds kept whole")
    ] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="do it; without, only say what")] = False,
    store: StoreUrl = None,
    run: RunName = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Drop what old rounds' trees hold beside the paths that were trained on and their siblings.

    Says what it would free; `--yes` does it. Trajectories, datasets, evaluations and lineage stay.

    Examples:

        ratchet store vacuum

        ratchet store vacuum --keep 5 --yes
    """
    settings = settings_of(flags_of(None, store=store, run=run), config)
    from agent.cli.commands import store_upkeep

    store_upkeep.vacuum(settings, keep, yes, as_json)


@store_app.command("export")
def store_export(
    kind: Annotated[str, typer.Argument(help="sft, dpo, kto, prm, value or rl")],
    out: Annotated[str, typer.Option("--out", help="file to write, .jsonl or .parquet")],
    round_number: Annotated[
        int | None, typer.Option("--round", min=1, max=MAX_NUMBER, help="only this round")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
    store: StoreUrl = None,
    run: RunName = None,
    task: TaskName = None,
    problems: Problems = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Write what rounds trained on as a file that TRL (or, for `rl`, verl) reads.

    `sft` holds the kept texts of the run's searches. It leaves out what a round mixes in beside
    them: replayed demonstrations (demonstrations.jsonl in the base policy's folder) and the
    policy's own right texts on labelled problems (`training.use_labelled`).

    Examples:

        ratchet store export sft --out sft.jsonl

        ratchet store export dpo --round 2 --out pairs.parquet
    """
    flags = flags_of(None, store=store, run=run, task=task, problems=problems)
    settings = settings_of(flags, config)
    from agent.cli.commands import store_upkeep

    store_upkeep.export(settings, task, kind, out, round_number, overwrite, as_json)


@store_app.command("dictionary")
def store_dictionary() -> None:
    """Print the data dictionary: every table, view and column, every value and key.

    Examples:

        ratchet store dictionary

        ratchet store dictionary > dictionary.md
    """
    from agent.cli.commands import store_upkeep

    store_upkeep.dictionary()
