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


@models_app.command("plan")
def models_plan(
    folder: Annotated[
        str, typer.Argument(metavar="DIR", help="a model's folder; its config.json is enough")
    ],
    gpu: Annotated[
        str, typer.Option("--gpu", help="h100 or h200: memory and speed of the card")
    ] = "h100",
    gpus: Annotated[int, typer.Option("--gpus", min=1, max=1_024, help="how many")] = 1,
    gpu_gib: Annotated[
        float | None, typer.Option("--gpu-gib", min=1, max=10_000, help="another card's memory")
    ] = None,
    text_tokens: Annotated[
        int, typer.Option("--text-tokens", min=1, max=2_097_152, help="of prompt and answer")
    ] = 1_024,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=65_536, help="texts a step, of all GPUs")
    ] = 16,
    lora_rank: Annotated[
        int, typer.Option("--lora-rank", min=1, max=4_096, help="of adapters")
    ] = 16,
    as_json: Json = False,
) -> None:
    """Say what a model would take of GPUs to be trained and served, without loading it.

    Memory is counted from what the training loop holds. Times are estimates from what such cards
    reached with other models (docs/gpus.md).

    Examples:

        ratchet models plan models/qwen3-8b --gpu h100 --gpus 8

        ratchet models plan ./model --gpu-gib 24 --text-tokens 512 --json
    """
    from agent.cli.commands import models_plan as command
    from agent.gpu_plan import GPUS, Work
    from search.errors import UsageError

    if gpu not in GPUS:
        raise UsageError(f"--gpu {gpu!r} is not known", f"give one of: {', '.join(GPUS)}")
    work = Work(text_tokens, batch_size, lora_rank)
    command.run(folder, gpu, gpus, gpu_gib, work, as_json)
