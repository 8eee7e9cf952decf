"""Settings from defaults, a TOML file, the environment and flags, each value with its origin.

Later sources win: default < ratchet.toml < RATCHET_SECTION__KEY < flag. An unknown key is an error
that names the nearest known one.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agent.config.conflicts import check_conflicts, check_kernels
from agent.config.endpoint import JUDGE_KEY
from agent.config.meanings import meanings
from agent.config.paths import SETTINGS, path_of
from agent.config.settings import Config
from search.errors import SearchSettingsError, UsageError

DEFAULT_FILE = "ratchet.toml"
MAX_FILE_BYTES = 2**20
MAX_TEXT = 100_000
"""Characters of a setting."""
MAX_SHOWN = 200
"""Characters of a wrong value in a message."""
ALIASES = {"checkpoints": "checkpoints.folder"}
"""Short names of settings."""
NOT_SETTINGS = (
    *("RATCHET_FAILPOINT", "RATCHET_DEBUG", "RATCHET_JOB_ID", "RATCHET_KERNELS"),
    JUDGE_KEY,
)


@dataclass(frozen=True, slots=True)
class Setting:
    key: str
    value: Any
    origin: str
    """default, FILE, environment NAME, or flag."""


def check_key(key: str, where: str) -> None:
    """Raises UsageError for an unknown setting, with the nearest known one."""
    known = meanings()
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    tail = {k.rpartition(".")[2]: k for k in known}
    near = near or [tail[n] for n in difflib.get_close_matches(key.rpartition(".")[2], tail, n=1)]
    raise UsageError(
        f"unknown setting {key!r} in {where}",
        f"did you mean {near[0]!r}?" if near else "see `ratchet config show`",
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _from_file(file: str) -> dict[str, Setting]:
    path = path_of(file or DEFAULT_FILE, "config file")
    if not path.is_file():
        if file:
            raise UsageError(f"config file {file!r} is not there", "check --config")
        return {}
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UsageError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes", "check --config")
        values = tomllib.loads(data.decode("utf-8"))
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply", "correct it") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "check --config") from error
    except ValueError as error:  # no TOML, no UTF-8, a number of thousands of digits
        raise UsageError(f"{path} is not TOML: {error}", "correct that line") from error
    found = {}
    for key, value in _flat(values).items():
        key = ALIASES.get(key, key)
        check_key(key, str(path))
        found[key] = Setting(key, value, str(path))
    return found


def _from_environment() -> dict[str, Setting]:
    found = {}
    for name, text in os.environ.items():
        if not name.startswith("RATCHET_") or name in NOT_SETTINGS:
            continue
        key = name.removeprefix("RATCHET_").lower().replace("__", ".")
        key = ALIASES.get(key, key)
        check_key(key, f"environment variable {name}")
        found[key] = Setting(key, text, f"environment {name}")
    return found


def _listed(value: Any) -> Any:
    """Flags and environment bring lists as text: `[8, 4]`."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}... ({len(text):,} long)"


def _check_text(setting: Setting) -> None:
    """Raises UsageError for a text that no file, database or model can take."""
    if not isinstance(setting.value, str):
        return
    bad = next((c for c in setting.value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        raise UsageError(
            f"setting {setting.key!r} in {setting.origin} has {bad!r} in it: "
            f"{_brief(setting.value)}",
            "write it in UTF-8, without NUL",
        )
    if len(setting.value) > MAX_TEXT:
        raise UsageError(
            f"setting {setting.key!r} in {setting.origin} has {len(setting.value):,} characters, "
            f"over {MAX_TEXT:,}",
            "give a shorter one, or a file where the setting takes one",
        )
    if setting.key in SETTINGS and not setting.value.startswith("hf:"):
        path_of(setting.value, f"setting {setting.key!r} in {setting.origin},")


def _said(message: str) -> str:
    """What pydantic says of a value, without its own words for the kind of error."""
    text = message.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def load_config(
    flags: Mapping[str, Any], file: str = "", defaults: Mapping[str, Any] | None = None
) -> tuple[Config, list[Setting]]:
    """The configuration and where each value came from. Raises UsageError naming key and value."""
    check_kernels(os.environ.get("RATCHET_KERNELS", ""))
    own = {key: Setting(key, value, "default") for key, value in (defaults or {}).items()}
    given = own | _from_file(file) | _from_environment()
    for key, value in flags.items():
        if value is not None:
            key = ALIASES.get(key, key)
            check_key(key, "a flag")
            given[key] = Setting(key, value, "flag")
    nested: dict[str, Any] = {}
    for key, setting in given.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = _listed(setting.value)
    for setting in given.values():
        _check_text(setting)
    try:
        config = Config.model_validate(nested)
    except SearchSettingsError:
        raise
    except (OverflowError, RecursionError) as error:
        longest = max(given.values(), key=lambda s: len(str(s.value)))
        raise UsageError(
            f"setting {longest.key!r} is {_brief(longest.value)} in {longest.origin}: {error}",
            f"see `ratchet config show {longest.key}`",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"]]
        # A value of several possible types is followed by the type that was tried first.
        key = next(
            (k for n in range(len(loc), 0, -1) if (k := ".".join(loc[:n])) in given), ".".join(loc)
        )
        origin = given[key].origin if key in given else "the configuration"
        raise UsageError(
            f"setting {key!r} is {_brief(first['input'])} in {origin}: {_said(first['msg'])}",
            f"see `ratchet config show {key}`",
        ) from error
    check_conflicts(config, is_asking=bool(defaults))
    values = _flat(config.model_dump())
    return config, [
        Setting(key, values[key], given[key].origin if key in given else "default")
        for key in meanings()
    ]
