"""`ratchet keys`: who may ask a server that others can reach."""

from typing import Annotated

import typer

from agent.cli.options import Json

keys_app = typer.Typer(no_args_is_help=True, help="Make, list and remove the keys of a server.")
File = Annotated[str, typer.Option("--file", help="where keys are kept, as digests")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="whose key it is")]
DEFAULT = "ratchet-runs/keys.json"


@keys_app.command("add")
def keys_add(
    name: Name,
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", help="infer (the default), inspect or admin; repeatable"),
    ] = None,
    file: File = DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is shown this once: the file has its digest alone.

    Examples:

        ratchet keys add laptop

        ratchet keys add grafana --scope admin --file keys.json
    """
    from agent.cli.commands import keys as command

    command.add(file, name, scope or ["infer"], as_json)


@keys_app.command("list")
def keys_list(file: File = DEFAULT, as_json: Json = False) -> None:
    """List the names of keys and what each may do.

    Examples:

        ratchet keys list

        ratchet keys list --file keys.json --json
    """
    from agent.cli.commands import keys as command

    command.show(file, as_json)


@keys_app.command("remove")
def keys_remove(name: Name, file: File = DEFAULT) -> None:
    """Remove a key. A server that runs knows it until it is started again.

    Examples:

        ratchet keys remove laptop

        ratchet keys remove grafana --file keys.json
    """
    from agent.cli.commands import keys as command

    command.remove(file, name)
