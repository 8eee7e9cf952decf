"""Options that several commands share, and how their values become settings."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from agent.checkpoints.header import read_header
from agent.config.load import load_config
from agent.config.paths import path_of
from agent.config.settings import MANY, Config
from store.address import check_url

MAX_NUMBER = 2**31 - 1
"""Of a round or a node."""
MAX_ID = 2**63 - 1
"""Of a search, as databases count."""


INLINE = {"hosting.hosting": "inline", "hosting.training_workers": 1}
"""What a command that only asks takes where nobody says otherwise."""


def finite(value: float | None) -> float | None:
    """The value. Raises BadParameter for NaN, which no bound keeps out."""
    if value is not None and value != value:
        raise typer.BadParameter("is no number")
    return value


Timeout = Annotated[
    float,
    typer.Option("--timeout", min=0.01, max=3600.0, callback=finite, help="seconds"),
]
ConfigFile = Annotated[str, typer.Option("--config", help="TOML file; ratchet.toml if it is there")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="any setting, as section.key=value; repeatable")
]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="SQLAlchemy URL of the store")]
RunName = Annotated[str | None, typer.Option("--run", help="name of the run")]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task", help="expressions, stories, game24, ledger, pictures, jsonl, or FILE.py:CLASS"
    ),
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
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, max=2**62 - 1, help="of everything random")
]
Simulations = Annotated[
    int | None, typer.Option("--simulations", min=1, max=MANY, help="evaluated nodes a search")
]
Hosting = Annotated[str | None, typer.Option("--hosting", help="ray, or inline (this process)")]
RayAddress = Annotated[str | None, typer.Option("--ray-address", help="Ray cluster to join")]


def settings_of(
    flags: dict[str, Any], file: str, defaults: Mapping[str, Any] | None = None
) -> Config:
    """The settings in force; `defaults` are the command's own, under what anybody sets.

    A command reads them before it imports what it runs: a wrong one is told at once, and help does
    not wait for torch.
    """
    config = load_config(flags, file, defaults)[0]
    check_url(config.store)
    for name in (config.policy, config.imagination.writer):
        if name:  # a forged checkpoint is refused before torch takes its seconds and memory
            read_header(path_of(name, "checkpoint"))
    return config


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


Epochs = Annotated[
    float,
    typer.Option("--epochs", min=0.01, max=100.0, callback=finite, help="passes over the rows"),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, max=65_536, help="rows a step")]
TrainerName = Annotated[
    str | None, typer.Option("--trainer", help="own (our loop) or trl, which has QLoRA")
]
