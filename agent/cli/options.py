"""Options that several commands share, and how their values become settings."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from agent.config.load import load_config
from agent.config.settings import Config

ConfigFile = Annotated[str, typer.Option("--config", help="TOML file; ratchet.toml if it is there")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="any setting, as section.key=value; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="SQLAlchemy URL of the store")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the run")]
TaskName = Annotated[
    str | None,
    typer.Option("--task", help="expressions, stories, game24, jsonl, or FILE.py:CLASS"),
]
HeldOut = Annotated[
    str | None, typer.Option("--held-out", help="file of problems for evaluation alone (jsonl)")
]
Labelled = Annotated[
    str | None, typer.Option("--labelled", help="file of problems with answers, for critics")
]
Policy = Annotated[str | None, typer.Option("--policy", help="checkpoint directory")]
Problems = Annotated[
    str | None, typer.Option("--problems", help="file of problems for --task jsonl, or hf:NAME")
]
Seed = Annotated[int | None, typer.Option("--seed", help="of everything random")]
Simulations = Annotated[int | None, typer.Option("--simulations", help="evaluated nodes a search")]
Hosting = Annotated[str | None, typer.Option("--hosting", help="ray, or inline (this process)")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Ray cluster to join")]


def settings_of(
    flags: dict[str, Any], file: str, defaults: Mapping[str, Any] | None = None
) -> Config:
    """The settings in force; `defaults` are the command's own, under what anybody sets.

    A command reads them before it imports what it runs: a wrong one is told at once, and help does
    not wait for torch.
    """
    return load_config(flags, file, defaults)[0]


def flags_of(given: list[str] | None, **named: Any) -> dict[str, Any]:
    """Flags by dotted key; `--set` comes first, so that a named flag wins."""
    flags: dict[str, Any] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
        flags[key.strip()] = value.strip()
    flags |= {key.replace("__", "."): v for key, v in named.items() if v is not None}
    return flags
