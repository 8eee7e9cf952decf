"""`ratchet arena`: blind votes on stored answers, and who leads."""

from typing import Annotated, Literal

import typer

from agent.cli.options import (
    INLINE,
    ConfigFile,
    Json,
    Seed,
    Set,
    StoreUrl,
    TaskName,
    flags_of,
    settings_of,
)
from agent.config.settings import MANY

Ties = Literal["half", "davidson"]
arena_app = typer.Typer(
    no_args_is_help=True, help="Compare many policies by votes on their stored answers."
)
Contestants = Annotated[
    list[str] | None,
    typer.Option(
        "--contestant", metavar="POLICY/MODE", help="only these, such as 3f2a.../greedy; repeatable"
    ),
]
Judges = Annotated[
    list[str] | None, typer.Option("--judge", metavar="NAME", help="only their votes; repeatable")
]
Votes = Annotated[int, typer.Option("--votes", min=1, max=MANY, help="comparisons, at most")]


@arena_app.command("standings")
def arena_standings(
    task: TaskName = None,
    contestant: Contestants = None,
    judge: Judges = None,
    ties: Annotated[
        Ties, typer.Option("--ties", help="half: half a win; davidson: a chance of their own")
    ] = "half",
    weighted: Annotated[
        bool,
        typer.Option("--weighted", help="each vote counts one over the chance of its pair"),
    ] = False,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Ratings with 95 % intervals, the ranks each may have, and what is odd about the votes.

    A contestant is a policy and its way of answering. Ratings are Bradley and Terry's on the Elo
    scale: 400 points are ten to one, and the mean is 1000. Votes on one problem are taken together,
    from ten judges on those of one judge, too.

    Examples:

        ratchet arena standings

        ratchet arena standings --task stories --judge ada --judge bob --ties davidson --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import arena as command

    command.show_standings(settings, task, contestant or [], judge or [], ties, weighted, as_json)


@arena_app.command("vote")
def arena_vote(
    judge: Annotated[str, typer.Option("--judge", metavar="NAME", help="who votes")],
    votes: Votes = 20,
    task: TaskName = None,
    contestant: Contestants = None,
    seed: Seed = None,
    store: StoreUrl = None,
    config: ConfigFile = "",
) -> None:
    """Show pairs of answers and ask which is better. Who wrote which is not told.

    Answer l, r, t (a tie) or b (both bad), with 1 to 3 behind l or r for how clearly: `l3`. s skips
    a pair, q ends. Answers come line by line on standard input, so that a script can vote, too.
    `ratchet view --judge NAME` does the same in a browser.

    Examples:

        ratchet arena vote --judge ada

        ratchet arena vote --judge ada --task stories --votes 50
    """
    settings = settings_of(flags_of(None, store=store, seed=seed), config)
    from agent.cli.commands import arena as command

    command.vote(settings, task, contestant or [], judge, votes)


@arena_app.command("verify")
def arena_verify(
    task: TaskName = None,
    contestant: Contestants = None,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Vote on every pair by which answer is right, as the task's own rule has judged them.

    Both right, or both wrong, is a tie; equal texts are not compared. Votes that are there stay.

    Examples:

        ratchet arena verify

        ratchet arena verify --task expressions --json
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import arena as command

    command.verify(settings, task, contestant or [], as_json)


@arena_app.command("ask")
def arena_ask(
    judge: Annotated[
        str, typer.Option("--judge", metavar="DIR|URL", help="a model, or an endpoint's /v1")
    ],
    model: Annotated[str, typer.Option("--model", help="which of the endpoint's models")] = "",
    votes: Votes = 100,
    task: TaskName = None,
    contestant: Contestants = None,
    seed: Seed = None,
    store: StoreUrl = None,
    set_: Set = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Let a model vote. It sees each pair both ways round; who changes its mind has said a tie.

    A model at hand is read without writing: yes counts when it is likelier than no. The key of an
    endpoint is taken from RATCHET_JUDGE_KEY.

    Examples:

        ratchet arena ask --judge ./smollm2-instruct --votes 200

        ratchet arena ask --judge http://localhost:8000/v1 --model qwen3 --task stories
    """
    from agent.config.endpoint import is_served

    flags = flags_of(set_, store=store, seed=seed, policy=None if is_served(judge) else judge)
    settings = settings_of(flags, config, INLINE)
    from agent.cli.commands import arena_ask as command

    command.run(settings, task, contestant or [], judge, model, votes, as_json)


@arena_app.command("export")
def arena_export(
    out: Annotated[str, typer.Option("--out", help="file to write, .jsonl or .parquet")],
    task: TaskName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file")] = False,
    store: StoreUrl = None,
    config: ConfigFile = "",
    as_json: Json = False,
) -> None:
    """Write all votes on a task's answers as rows of a file.

    Examples:

        ratchet arena export --out votes.jsonl

        ratchet arena export --task stories --out votes.parquet
    """
    settings = settings_of(flags_of(None, store=store), config)
    from agent.cli.commands import arena as command

    command.export(settings, task, out, overwrite, as_json)
