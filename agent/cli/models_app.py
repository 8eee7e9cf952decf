"""`ratchet models`: what a store knows of checkpoints, and checkpoints made of other formats."""

from typing import Annotated

import typer

from agent.cli.options import ConfigFile, Json, StoreUrl, flags_of, settings_of

models_app = typer.Typer(invoke_without_command=True)


@models_app.callback()
def models_list(
    context: typer.Context,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """List the checkpoints with their lineage and what was measured of them.

    Examples:

        ratchet models

        ratchet models --json

        ratchet models import model.gguf ./model
    """
    if context.invoked_subcommand is not None:
        return
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import models as command

    command.run(settings, as_json)


@models_app.command("import")
def models_import(
    file: Annotated[str, typer.Argument(metavar="FILE.gguf", help="of a Llama-like family")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="new folder of the checkpoint")],
    as_json: Json = False,
) -> None:
    """Turn a GGUF file into an ordinary checkpoint folder, dequantised to bfloat16.

    Llama (Mistral, SmolLM), Qwen2 and Qwen3. The folder is what --policy takes.

    Examples:

        ratchet models import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2

        ratchet models import model.gguf ./model --json
    """
    from agent.cli.commands import models_import as command

    command.run(file, folder, as_json)


@models_app.command("merge")
def models_merge(
    adapters: Annotated[str, typer.Argument(metavar="ADAPTERS", help="folder with adapters")],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="new folder of the whole weights")],
    as_json: Json = False,
) -> None:
    """Turn adapters and their base into one checkpoint folder with whole weights.

    Ratchet serves and trains adapters as they are; other programs, vLLM and TRL among them, may
    want whole weights.

    Examples:

        ratchet models merge ratchet-runs/checkpoints/policy-0123456789abcdef models/merged

        ratchet models merge ./adapters ./whole --json
    """
    from agent.cli.commands import models_merge as command

    command.run(adapters, folder, as_json)
