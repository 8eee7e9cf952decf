"""What each setting means, by its dotted key: the descriptions beside their definitions."""

import functools
from collections.abc import Mapping

from pydantic import BaseModel

from agent.config.settings import Config
from search.docstrings import docs_of
from search.settings import SearchSettings


@functools.cache
def meanings() -> Mapping[str, str]:
    """All settings in the order of their definitions."""
    found: dict[str, str] = {}
    for name, info in Config.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= {
                f"{name}.{inner}": field.description or ""
                for inner, field in kind.model_fields.items()
            }
        elif kind is SearchSettings:
            found |= {f"{name}.{inner}": text for inner, text in docs_of(SearchSettings).items()}
        else:
            found[name] = info.description or ""
    return found


def defaults() -> Mapping[str, object]:
    """Every setting's own default."""
    plain = Config()
    found: dict[str, object] = {}
    for key in meanings():
        section, _, name = key.rpartition(".")
        found[key] = getattr(getattr(plain, section) if section else plain, name)
    return found
