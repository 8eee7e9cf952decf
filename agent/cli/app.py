"""The command line: data on stdout, talk on stderr, `--json` for programs."""

from collections.abc import Mapping
from typing import Annotated

import typer

from agent.cli.arena_app import arena_app
from agent.cli.inspect_app import inspect_app
from agent.cli.keys_app import keys_app
from agent.cli.models_app import models_app
from agent.cli.options import (
    INLINE,
    MAX_NUMBER,
    BatchSize,
    ConfigFile,
    Epochs,
    HeldOut,
    Hosting,
    Json,
    Labelled,
    Policy,
    Problems,
    RayAddress,
    RunName,
    Seed,
    Set,
    Simulations,
    StoreUrl,
    TaskName,
    TrainerName,
    finite,
    flags_of,
    settings_of,
)
from agent.cli.recipe_app import recipe_app
from agent.cli.store_app import store_app
from agent.cli.streams import standard_input
from agent.cli.view_app import view_app
from agent.config.paths import path_of
from agent.config.settings import MANY, Config
from agent.rounds.code_version import code_version
from search.errors import UsageError

app = typer.Typer(
    name="ratchet",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(no_args_is_help=True, help="Show the settings in force.")
app.add_typer(inspect_app, name="inspect")
app.add_typer(store_app, name="store")
app.add_typer(arena_app, name="arena")
app.add_typer(config_app, name="config")
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")
app.add_typer(view_app, name="view")
app.add_typer(recipe_app, name="recipe")


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"ratchet {code_version()}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="print the version and end"
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="print the traceback of an error; wherever it stands")
    ] = False,
) -> None:
    """Self-improvement rounds for language models: search, critics, SQL, gated rounds."""


@app.command("improve")
def improve_command(
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=MAX_NUMBER, help="rounds to finish")
    ] = 1,
    problems_per_round: Annotated[
        int | None, typer.Option("--problems-per-round", min=1, max=MANY)
    ] = None,
    simulations: Simulations = None,
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    held_out: HeldOut = None,
    labelled: Labelled = None,
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

        ratchet improve --task jsonl --problems train.jsonl --held-out test.jsonl \\
          --policy ./my-chat-model --set prompt.style=chat
    """
    flags = flags_of(
        set_,
        problems_per_round=problems_per_round,
        search__simulations=simulations,
        policy=policy,
        task=task,
        problems=problems,
        held_out=held_out,
        labelled=labelled,
        store=store,
        checkpoints=checkpoints,
        run=run,
        seed=seed,
        hosting__ray_address=ray_address,
        hosting__hosting=hosting,
        critics__use_tool=False if no_tool else None,
    )
    settings = settings_of(flags, config)
    from agent.cli.commands import improve as command

    command.run(settings, rounds, dry_run, fresh, as_json)


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
    flags = flags_of(
        set_,
        search__simulations=simulations,
        policy=policy,
        task=task,
        problems=problems,
        store=store,
        run=run,
        seed=seed,
        hosting__hosting=hosting,
        critics__use_tool=False if no_tool else None,
    )
    text = standard_input() if question == "-" else question
    settings = settings_of(flags, config, INLINE)
    from agent.cli.commands import solve as command

    command.run(settings, text, as_json)


@app.command("serve")
def serve_command(
    host: Annotated[
        str | None, typer.Option("--host", help="address; 127.0.0.1 unless keys are set")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65_535, help="8000; 0: any free one")
    ] = None,
    keys: Annotated[
        str | None, typer.Option("--keys", metavar="FILE", help="see `ratchet keys add`")
    ] = None,
    simulations: Simulations = None,
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    store: StoreUrl = None,
    run: RunName = None,
    seed: Seed = None,
    hosting: Hosting = None,
    ray_address: RayAddress = None,
    ray_serve: Annotated[
        bool, typer.Option("--ray-serve", help="as a deployment of Ray Serve, for clusters")
    ] = False,
    no_tool: Annotated[bool, typer.Option("--no-tool", help="search without the tool")] = False,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Serve searched answers over OpenAI's protocol, from the run's newest policy.

    A promotion while it serves is taken up between requests. Every search is stored.

    Examples:

        ratchet serve

        ratchet serve --task stories --run stories --port 8080

        ratchet keys add laptop --file keys.json && ratchet serve --host 0.0.0.0 --keys keys.json
    """
    flags = flags_of(
        set_,
        serve__host=host,
        serve__port=port,
        serve__keys=keys,
        search__simulations=simulations,
        policy=policy,
        task=task,
        problems=problems,
        store=store,
        run=run,
        seed=seed,
        hosting__hosting=hosting,
        hosting__ray_address=ray_address,
        critics__use_tool=False if no_tool else None,
    )
    settings = settings_of(flags, config, INLINE)
    from agent.cli.commands import serve as command

    command.run(settings, ray_serve, as_json)


@app.command("evaluate")
def evaluate_command(
    mode: Annotated[
        list[str] | None,
        typer.Option("--mode", help="greedy, majority, best-of-n, wordings or search; repeatable"),
    ] = None,
    num_problems: Annotated[
        int | None,
        typer.Option("--num-problems", min=1, max=MANY, help="held-out; 200, or all of --held-out"),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, max=1_000, help="texts a problem")
    ] = 8,
    budget: Annotated[
        list[int] | None,
        typer.Option("--simulations", min=1, max=MANY, help="budget of mode search; repeatable"),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option("--compare", metavar="A B", help="two policies: directories or versions"),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", metavar="FILE", help="bits per character of this text instead"),
    ] = None,
    versions: Annotated[
        bool,
        typer.Option("--versions", help="with --corpus: all policies that --store measured"),
    ] = False,
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    held_out: HeldOut = None,
    store: StoreUrl = None,
    run: RunName = None,
    seed: Seed = None,
    hosting: Hosting = None,
    no_tool: Annotated[bool, typer.Option("--no-tool", help="search without the tool")] = False,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure a policy on held-out problems, each accuracy with n, interval and tokens; or how well
    it compresses a text.

    With --store the answers and texts are written there: `ratchet inspect samples` shows them.

    Examples:

        ratchet evaluate

        ratchet evaluate --mode greedy --mode search --simulations 4 --simulations 16

        ratchet evaluate --compare ./before ./after --num-problems 600

        ratchet evaluate --task jsonl --problems train.jsonl --held-out test.jsonl --policy DIR

        ratchet evaluate --corpus articles.jsonl --policy DIR

        ratchet evaluate --corpus worked.txt --versions --store sqlite:///ratchet.db
    """
    flags = flags_of(
        set_,
        policy=policy,
        task=task,
        problems=problems,
        held_out=held_out,
        store=store,
        run=run,
        seed=seed,
        hosting__hosting=hosting,
        critics__use_tool=False if no_tool else None,
    )
    if versions and not corpus:
        raise UsageError("--versions says whose --corpus is measured", "add --corpus FILE")
    if corpus:
        others = {
            "--mode": mode,
            "--simulations": budget,
            "--compare": compare,
            "--num-problems": num_problems,
        }
        _refuse("--corpus reads a text", others)
        if versions:
            _refuse("--versions measures a store's policies", {"--policy": policy})
        settings = settings_of(flags, config, INLINE)
        from agent.cli.commands import evaluate_corpus

        evaluate_corpus.run(settings, corpus, versions, as_json)
        return
    if compare:
        unused = {"--mode": mode, "--simulations": budget, "--policy": policy}
        _refuse("--compare measures two policies greedily", unused)
        settings = settings_of(flags, config, INLINE)
        from agent.cli.commands import compare as comparison

        comparison.run(settings, compare, num_problems or _most(settings), as_json)
        return
    settings = settings_of(flags, config, INLINE)
    from agent.cli.commands import evaluate as command

    num = num_problems or _most(settings)
    command.run(settings, mode or [], num, samples, budget or [], store is not None, as_json)


def _refuse(what: str, others: Mapping[str, object]) -> None:
    """Raises UsageError for an option that is given and has no part in `what`."""
    for name, value in others.items():
        if value:
            raise UsageError(f"{what} and does not take {name}", f"leave {name} out")


def _most(settings: Config) -> int:
    """Held-out problems where nobody says how many."""
    return settings.num_held_out if settings.held_out else 200


@app.command("teach")
def teach_command(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="new folder of the policy")],
    policy: Policy = None,
    task: TaskName = None,
    problems: Problems = None,
    held_out: HeldOut = None,
    epochs: Epochs = 4.0,
    batch_size: BatchSize = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            min=1e-9,
            max=1.0,
            callback=finite,
            help="AdamW's; unset: by the size of the model",
        ),
    ] = None,
    trainer: TrainerName = None,
    lora_rank: Annotated[
        int | None,
        typer.Option("--lora-rank", min=0, max=4_096, help="of LoRA adapters; 0: all weights"),
    ] = None,
    num_problems: Annotated[
        int,
        typer.Option(
            "--num-problems",
            min=0,
            max=MANY,
            help="held-out problems answered before and after; 0: none",
        ),
    ] = 200,
    store: StoreUrl = None,
    seed: Seed = None,
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Teach a policy the form of answers: fine-tune it on the worked answers of a file.

    Run the same command again after it was stopped: it goes on. The result is what
    `ratchet improve --policy` takes.

    Examples:

        ratchet teach --problems train.jsonl --policy ./smollm2 --out ./taught

        ratchet teach --problems train.jsonl --held-out dev.jsonl --policy ./smollm2 \\
          --out ./taught --epochs 3 --num-problems 300

        ratchet teach --problems train.jsonl --policy ./llama --out ./taught --trainer trl \\
          --lora-rank 16
    """
    flags = flags_of(
        set_,
        policy=policy,
        task=task,
        problems=problems,
        held_out=held_out,
        store=store,
        seed=seed,
        training__trainer=trainer,
        training__lora_rank=lora_rank,
    )
    settings = settings_of(flags, config, INLINE | {"task": "jsonl"})
    if not settings.policy:
        raise UsageError("no policy is named", "add --policy DIR, a transformers folder")
    folder = path_of(out, "--out")
    from agent.cli.commands import teach as command
    from agent.teach import Course

    course = Course(epochs, batch_size, learning_rate, num_problems)
    command.run(settings, folder, course, as_json)


@app.command("status")
def status_command(
    store: StoreUrl = None, run: RunName = None, config: ConfigFile = "", as_json: Json = False
) -> None:
    """Show who works on a run, its open round, and the health of its actors.

    Examples:

        ratchet status

        ratchet status --run stories --json
    """
    settings = settings_of(flags_of(None, store=store, run=run), config)
    from agent.cli.commands import status as command

    command.run(settings, as_json)


@app.command("doctor")
def doctor_command(store: StoreUrl = None, config: ConfigFile = "", as_json: Json = False) -> None:
    """Check this machine: versions, security floors, disk, store, devices.

    Examples:

        ratchet doctor

        ratchet doctor --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import doctor as command

    command.run(settings, as_json)


@config_app.command("show")
def config_show(
    only: Annotated[
        str, typer.Argument(metavar="[SETTING]", help="one setting, or a section; else all")
    ] = "",
    config: ConfigFile = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Print the settings in force: value, default, where the value comes from, what it means.

    Examples:

        ratchet config show

        ratchet config show training.method

        RATCHET_SEARCH__SIMULATIONS=4 ratchet config show search --json
    """
    from agent.cli.commands import config as command

    command.show(only, flags_of(set_), config, as_json)
