"""Settings that a stored run was made with, for who asks about it later."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.config.settings import Config, PromptSettings

OF_PROBLEMS = ("task", "problems", "held_out", "labelled", "bad_rows", "answers", "prompt")
"""What decides which problems there are, and how they are put to a model."""


def with_problems_of(
    config: Config, stored: Mapping[str, Any], keys: Sequence[str] = OF_PROBLEMS
) -> Config:
    """The settings with a run's own problems and prompts, where nobody sets others."""
    default = Config()
    taken = {
        key: stored[key]
        for key in keys
        if key in stored and key != "prompt" and getattr(config, key) == getattr(default, key)
    }
    own, plain = config.prompt.model_dump(), default.prompt.model_dump()
    set_ones = {name: value for name, value in own.items() if value != plain[name]}
    prompt = PromptSettings.model_validate(dict(stored.get("prompt") or {}) | set_ones)
    return config.model_copy(update=taken | {"prompt": prompt})


PATHS = (
    *("policy", "bundle", "problems", "held_out", "labelled", "prompt.examples"),
    *("prompt.template", "imagination.writer", "imagination.judge"),
)
"""Settings that name files: one may be written in several ways."""


def _is_same(key: str, old: Any, new: Any) -> bool:
    if key in PATHS:
        is_both = bool(old) and bool(new)
        return is_both and Path(old).expanduser().resolve() == Path(new).expanduser().resolve()
    return isinstance(old, list | tuple) and list(old) == list(new)


def differing(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`key was A, is B` for each setting in which two dumps differ; keys of one alone are left."""
    found: list[str] = []
    for key in before.keys() & now.keys():
        old, new = before[key], now[key]
        if isinstance(old, dict) and isinstance(new, dict):
            found += differing(old, new, f"{prefix}{key}.")
        elif old != new and not _is_same(prefix + key, old, new):
            found.append(f"{prefix}{key} was {old!r}, is {new!r}")
    return sorted(found)
