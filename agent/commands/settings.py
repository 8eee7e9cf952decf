"""`ratchet config show`, and the configuration of every other command."""

from typing import Any

from agent.commands.output import emit, table
from agent.config import Config, Setting, load_config


def load(flags: dict[str, Any], file: str) -> tuple[Config, list[Setting]]:
    return load_config(flags, file)


def run(origin: bool, flags: dict[str, Any], file: str, as_json: bool) -> None:
    _, values = load(flags, file)
    rows = [
        {"key": s.key, "value": s.value} | ({"origin": s.origin} if origin else {}) for s in values
    ]
    if as_json:
        emit(rows)
    else:
        table(rows)
