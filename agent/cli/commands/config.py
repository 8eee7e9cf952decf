"""`ratchet config show`."""

from typing import Any

from agent.cli.output import emit, table
from agent.config.load import load_config


def run(origin: bool, flags: dict[str, Any], file: str, as_json: bool) -> None:
    _, values = load_config(flags, file)
    rows = [
        {"key": s.key, "value": s.value} | ({"origin": s.origin} if origin else {}) for s in values
    ]
    if as_json:
        emit(rows)
    else:
        table(rows)
