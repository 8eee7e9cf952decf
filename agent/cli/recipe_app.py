"""`ratchet recipe`: published recipes, end to end."""

from typing import Annotated

import typer

from agent.cli.options import (
    INLINE,
    BatchSize,
    ConfigFile,
    Epochs,
    HeldOut,
    Json,
    Policy,
    Problems,
    Seed,
    Set,
    StoreUrl,
    TrainerName,
    flags_of,
    settings_of,
)
from agent.config.paths import path_of
from agent.config.settings import MANY
from search.errors import UsageError

recipe_app = typer.Typer()


@recipe_app.callback()
def recipe() -> None:
    """Published recipes of several trainings, each step measured."""


@recipe_app.command("openbezoar")
def recipe_openbezoar(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="new folder of all steps")],
    policy: Policy = None,
    problems: Problems = None,
    held_out: HeldOut = None,
    writer: Annotated[
        str | None,
        typer.Option("--writer", metavar="DIR", help="model that writes rows; unset: the policy"),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge", metavar="DIR|URL", help="model that judges them; unset: the writer"
        ),
    ] = None,
    preferences: Annotated[
        str,
        typer.Option(
            "--preferences",
            metavar="FILE",
            help="rows with prompt, chosen and rejected; unset: the policy's own texts",
        ),
    ] = "",
    texts: Annotated[
        int, typer.Option("--texts", min=1, max=MANY, help="rows asked of each scheme")
    ] = 200,
    epochs: Epochs = 2.0,
    batch_size: BatchSize = 16,
    samples: Annotated[
        int,
        typer.Option("--samples", min=2, max=1_000, help="texts a problem, to find preferences in"),
    ] = 4,
    lora_rank: Annotated[
        int, typer.Option("--lora-rank", min=0, max=4_096, help="of the adapters; 0: all weights")
    ] = 16,
    trainer: TrainerName = None,
    num_problems: Annotated[
        int,
        typer.Option(
            "--num-problems", min=0, max=MANY, help="held-out ones answered after each step"
        ),
    ] = 200,
    store: StoreUrl = None,
    seed: Seed = None,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Rows by three schemes, fine-tuning on one after the other, preferred answers, then DPO.

    Run the same command again after it was stopped: it goes on. Every step's checkpoint is what
    `ratchet improve --policy` takes.

    Examples:

        ratchet recipe openbezoar --problems train.jsonl --policy ./taught --out ./bezoar

        ratchet recipe openbezoar --problems train.jsonl --policy ./taught --out ./bezoar \\
          --writer ./smollm2 --judge http://localhost:8000/v1 --texts 1000

        ratchet recipe openbezoar --problems train.jsonl --policy ./llama --out ./bezoar \\
          --trainer trl --set training.quantization=nf4 --preferences hh.jsonl
    """
    flags = flags_of(
        set_,
        policy=policy,
        problems=problems,
        held_out=held_out,
        store=store,
        seed=seed,
        training__trainer=trainer,
        training__lora_rank=lora_rank,
        imagination__writer=writer,
        imagination__judge=judge,
    )
    # The recipe names its schemes itself; these are for whoever asks what may be judged.
    schemes = {"imagination.schemes": '["lamini", "evol-deepen", "evol-widen"]'}
    settings = settings_of(flags, config, INLINE | {"task": "jsonl"} | schemes)
    if not settings.policy:
        raise UsageError("no policy is named", "add --policy DIR, a transformers folder")
    folder = path_of(out, "--out")
    from agent.cli.commands import recipe as command
    from agent.recipes.openbezoar import RecipePlan

    plan = RecipePlan(texts, epochs, batch_size, samples, preferences, num_problems)
    command.run(settings, folder, plan, as_json)
