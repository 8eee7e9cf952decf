"""Who may ask: keys that are kept as digests, each with what it may do.

A file of one JSON object, name to digest and scopes. A key itself is shown once, when it is made.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from search.errors import NotFoundError, UsageError

PREFIX = "rk-"

log = logging.getLogger("ratchet")


class Scope(StrEnum):
    """What a key may do."""

    INFER = "infer"
    """Ask for answers, and see and cancel one's own searches."""
    INSPECT = "inspect"
    """See all that is stored."""
    ADMIN = "admin"
    """All of it, metrics included, and cancel anybody's searches."""


@dataclass(frozen=True, slots=True)
class Key:
    """Somebody who asks."""

    name: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


NOBODY = Key("local", frozenset(Scope))
"""Who asks on loopback where no keys are set: the machine's own user."""


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The keys of a file; without a file there are none."""

    def __init__(self, path: Path | None) -> None:
        """Raises UsageError for a file that is none of keys, or that others may read."""
        self.path = path
        self._known: dict[str, tuple[str, frozenset[Scope]]] = {}
        self._changed_ns = 0
        self._read()
        self.is_required = bool(self._known)
        """Whether who asks needs one; so it stays when the last one is removed."""

    def _read(self) -> None:
        path = self.path
        self._known = {}
        if path is None or not path.is_file():
            return
        self._changed_ns = path.stat().st_mtime_ns
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{path} can be read by others", f"chmod 600 {path}")
        try:
            for name, entry in json.loads(path.read_text()).items():
                scopes = frozenset(Scope(s) for s in entry["scopes"])
                self._known[name] = (str(entry["sha256"]), scopes)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path} is no file of keys: {error}", "make one with `ratchet keys add NAME`"
            ) from error

    def __bool__(self) -> bool:
        return bool(self._known)

    @property
    def names(self) -> dict[str, list[str]]:
        """Name to scopes."""
        return {name: sorted(scopes) for name, (_, scopes) in sorted(self._known.items())}

    def find(self, key: str) -> Key | None:
        """Whose key it is; all are compared, so that the time says nothing.

        A file that has changed is read again: a key that was removed opens nothing any more.
        """
        self._refresh()
        wanted, found = digest(key), None
        for name, (known, scopes) in self._known.items():
            if hmac.compare_digest(known, wanted):
                found = Key(name, scopes)
        return found

    def _refresh(self) -> None:
        try:
            if self.path is not None and self.path.stat().st_mtime_ns != self._changed_ns:
                self._read()
        except (OSError, UsageError) as error:
            log.error("no key is taken: %s", error)
            self._known = {}

    def add(self, name: str, scopes: Sequence[Scope]) -> str:
        """A new key, which is not kept. Raises UsageError for a name that is taken."""
        if name in self._known:
            raise UsageError(
                f"there is a key {name!r} already", "remove it first, or choose another name"
            )
        key = PREFIX + secrets.token_urlsafe(32)
        self._known[name] = (digest(key), frozenset(scopes))
        self._write()
        return key

    def remove(self, name: str) -> None:
        if name not in self._known:
            raise NotFoundError(f"there is no key {name!r}", "see `ratchet keys list`")
        del self._known[name]
        self._write()

    def _write(self) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = {
            name: {"sha256": known, "scopes": sorted(scopes)}
            for name, (known, scopes) in self._known.items()
        }
        new = self.path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(rows, file, indent=2)
        new.replace(self.path)
