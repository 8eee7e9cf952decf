"""`ratchet view`: the store in a browser."""

from typing import Annotated

import typer

from agent.cli.options import MAX_ID, ConfigFile, Json, StoreUrl, flags_of, settings_of

view_app = typer.Typer(invoke_without_command=True)


@view_app.callback()
def view_pages(
    context: typer.Context,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65_535, help="on 127.0.0.1; 0: any free one")
    ] = 7575,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="only print the address")
    ] = False,
    judge: Annotated[
        str, typer.Option("--judge", metavar="NAME", help="also take arena votes in this name")
    ] = "",
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Show runs, rounds, searches and their trees in a browser. No model is loaded, and nothing is
    written but arena votes, with --judge.

    Examples:

        ratchet view

        ratchet view --store sqlite:////data/ratchet.db --port 9000 --no-browser

        ratchet view --judge ada

        ratchet view export 17 --out search-17.html
    """
    if context.invoked_subcommand is not None:
        return
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import view as command

    command.run(settings, port, not no_browser, as_json, judge)


@view_app.command("export")
def view_export(
    search: Annotated[int, typer.Argument(min=1, max=MAX_ID, help="number of the search")],
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="an HTML file to write")] = "",
    store: StoreUrl = None,
    config: ConfigFile = "",
) -> None:
    """Write one search with its whole tree as one HTML file that needs no server.

    Examples:

        ratchet view export 17

        ratchet view export 17 --out tree.html
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import view as command

    command.export(settings, search, out or f"search-{search}.html")
