"""`ratchet config show`: every setting, what it means, and where its value comes from."""

from typing import Any

from agent.cli.output import emit, table
from agent.config.load import check_key, load_config
from agent.config.meanings import defaults, meanings


def show(only: str, flags: dict[str, Any], file: str, as_json: bool) -> None:
    """All settings, or one, or those of a section."""
    _, settings = load_config(flags, file)
    own = defaults()
    rows = [
        {
            "key": s.key,
            "value": s.value,
            "default": own[s.key],
            "origin": s.origin,
            "meaning": meanings()[s.key],
        }
        for s in settings
        if not only or s.key == only or s.key.startswith(f"{only}.")
    ]
    if not rows:
        check_key(only, "the command")
    if as_json:
        emit(rows)
    else:
        table([row | {n: str(row[n]) for n in ("value", "default")} for row in rows])
