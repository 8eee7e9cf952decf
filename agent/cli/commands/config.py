"""`ratchet config show`: every setting, what it means, and where its value comes from."""

import difflib
from collections.abc import Iterable
from typing import Any

from agent.cli.output import emit, table
from agent.config.load import check_key, load_config
from agent.config.meanings import defaults, meanings
from search.errors import UsageError


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
    if not rows and "." not in only:
        _check_section(only, own)
    if not rows:
        check_key(only, "the command")
    if as_json:
        emit(rows)
    else:
        table([row | {n: str(row[n]) for n in ("value", "default")} for row in rows])


def _check_section(only: str, known: Iterable[str]) -> None:
    """Raises UsageError for what is near to a section, or near to nothing."""
    sections = sorted({key.partition(".")[0] for key in known if "." in key})
    names = sorted({*sections} | {key for key in known if "." not in key})
    near = difflib.get_close_matches(only.lower(), names, n=1)
    if near and near[0] in sections:
        raise UsageError(f"unknown section {only!r}", f"did you mean {near[0]!r}?")
    if not difflib.get_close_matches(only, list(known), n=1):
        raise UsageError(f"unknown setting or section {only!r}", f"sections: {', '.join(sections)}")
