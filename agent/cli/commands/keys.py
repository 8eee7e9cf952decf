"""`ratchet keys`: make, list and remove the keys of a server."""

from collections.abc import Sequence
from pathlib import Path

from agent.cli.output import emit, table
from agent.service.keys import Keys, Scope
from search.errors import UsageError


def add(file: str, name: str, scopes: Sequence[str], as_json: bool) -> None:
    known = [str(s) for s in Scope]
    if unknown := [s for s in scopes if s not in known]:
        raise UsageError(f"there is no scope {unknown[0]!r}", f"give one of {', '.join(known)}")
    key = Keys(Path(file).expanduser()).add(name, [Scope(s) for s in scopes])
    if as_json:
        emit({"name": name, "scopes": list(scopes), "key": key})
    else:
        print(key)


def show(file: str, as_json: bool) -> None:
    names = Keys(Path(file).expanduser()).names
    if as_json:
        emit({"keys": [{"name": n, "scopes": s} for n, s in names.items()]})
    else:
        table([{"name": n, "scopes": ", ".join(s)} for n, s in names.items()])


def remove(file: str, name: str) -> None:
    Keys(Path(file).expanduser()).remove(name)
