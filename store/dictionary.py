"""What everything in a store means: tables, views, columns, values and the keys of JSON columns.

All of it is read from the docstrings below the fields of `schema`, `views`, `states` and
`json_keys`, so that it is said once, where it is decided.
"""

import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict

from search.docstrings import doc_of, docs_of
from store import json_keys, states
from store.schema import Base
from store.views import VIEWS

WIDTH = 100
INTRODUCTION = (
    "What every table, view, column, value and JSON key of a store means, as `ratchet store "
    "dictionary` prints it. Times are microseconds since the epoch, UTC. An empty column holds "
    "SQL's NULL; where that is not allowed, an empty text or 0 may stand for nothing. In values, "
    "capitals stand for what differs. In JSON, `<name>` is any key at all, and `[]` each element "
    "of a list."
)
WORDS = {bool: "boolean", int: "integer", float: "number", str: "text", type(None): "null"}
SQL_TYPES = {bool: "BOOLEAN", int: "INTEGER", float: "DOUBLE", str: "TEXT"}


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table or view."""

    name: str
    kind: str
    """Its type, and whether it is a key, refers to another column, or may be empty."""
    means: str
    of: str
    """TABLE.COLUMN whose values it holds: its own, or the one that a view hands on."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a JSON column."""

    path: tuple[str, ...]
    """From the top: keys, `[]` for each element of a list, `<name>` for any key at all."""
    kind: str
    means: str

    @property
    def name(self) -> str:
        return ".".join(self.path).replace(".[]", "[]")


# --- columns ---


def tables() -> dict[str, tuple[str, list[Field]]]:
    """Table to what a row is and its columns, by name of table."""
    found: dict[str, tuple[str, list[Field]]] = {}
    for mapper in sorted(Base.registry.mappers, key=lambda m: str(m.local_table)):
        table, docs = str(mapper.local_table), docs_of(mapper.class_)
        found[table] = (
            doc_of(mapper.class_),
            [
                Field(c.name, _kind_of_column(c), docs[c.key], f"{table}.{c.name}")
                for c in mapper.local_table.columns
            ],
        )
    return found


def _kind_of_column(column: Any) -> str:
    marks = [str(column.type), *(["key"] if column.primary_key else [])]
    marks += [f"-> {key.target_fullname}" for key in column.foreign_keys]
    return ", ".join(marks + (["may be empty"] if column.nullable else []))


def views() -> dict[str, tuple[str, list[Field]]]:
    """View to what a row is and its columns, by name of view."""
    own = {field.of: field for _, fields in tables().values() for field in fields}
    found: dict[str, tuple[str, list[Field]]] = {}
    for view in sorted(VIEWS, key=lambda v: v.__view__):
        hints, fields = get_type_hints(view), []
        for name, says in docs_of(view).items():
            of = says.removeprefix("= ") if says.startswith("= ") else f"{view.__view__}.{name}"
            means = f"`{of}`. {own[of].means}" if of in own else says
            fields.append(Field(name, _kind_in_view(hints[name]), means, of))
        found[view.__view__] = (doc_of(view), fields)
    return found


def _kind_in_view(hint: Any) -> str:
    kinds = [SQL_TYPES[kind] for kind in get_args(hint) or (hint,) if kind in SQL_TYPES]
    return ", ".join(kinds + (["may be empty"] if type(None) in get_args(hint) else []))


# --- values ---


def values_of(column: str) -> dict[str, str]:
    """Value, or form of values, of TABLE.COLUMN to what it means; nothing for other columns."""
    values = states.COLUMNS.get(column, {})
    if isinstance(values, Mapping):
        return dict(values)
    members: Sequence[StrEnum] = list(values)
    docs = docs_of(type(members[0]))
    return {member.value: docs[member.name] for member in members}


# --- keys of JSON ---


def records_of(column: str) -> dict[str, type]:
    """Record of a JSON column by the value of the column that decides; by "" where none does."""
    if column in json_keys.COLUMNS:
        return {"": json_keys.COLUMNS[column]}
    return dict(json_keys.COLUMNS_BY[column][1]) if column in json_keys.COLUMNS_BY else {}


def keys_of(record: type, elsewhere: Mapping[type, str] | None = None) -> list[Key]:
    """All keys of a record. Records that are explained `elsewhere`, by column, are only named."""
    return list(_keys(record, (), elsewhere or {}))


def _keys(record: type, above: tuple[str, ...], elsewhere: Mapping[type, str]) -> Iterator[Key]:
    docs = docs_of(record)
    for name, hint in get_type_hints(record, include_extras=True).items():
        is_open = json_keys.OPEN in getattr(hint, "__metadata__", ())
        hint = hint.__origin__ if is_open else hint
        path = (*above, f"<{name}>" if is_open else name.removesuffix("_"))
        kind, means = _word(hint), docs[name]
        inner, inner_path = hint, path
        while get_origin(inner) is list:
            inner, inner_path = get_args(inner)[0], (*inner_path, "[]")
        if inner in elsewhere:
            means += f" Its keys are those of `{elsewhere[inner]}`."
        yield Key(path, kind, means)
        if _is_record(inner) and inner not in elsewhere:
            yield from _keys(inner, inner_path, elsewhere)


def _is_record(hint: Any) -> bool:
    return isinstance(hint, type) and (is_typeddict(hint) or is_dataclass(hint))


def _word(hint: Any) -> str:
    """What JSON calls a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is types.UnionType:
        return " or ".join(_word(kind) for kind in inner)
    if origin is Literal:
        return f"one of {', '.join(inner)}"
    if origin in (list, tuple):
        kinds = get_args(inner[0]) if get_origin(inner[0]) is types.UnionType else inner[:1]
        return "list of " + " or ".join(map(_plural, map(_word, kinds)))
    if hint is Any:
        return "anything"
    return "object" if _is_record(hint) else WORDS[hint]


def _plural(word: str) -> str:
    head, of, rest = word.partition(" of ")
    return f"{head}s{of}{rest}" if word not in ("anything", "null") else word


# --- Markdown ---


def dictionary() -> str:
    """Markdown: a section for each table, then for each view."""
    parts = ["# Data dictionary", "", _wrapped(INTRODUCTION), ""]
    homes: dict[type, str] = {}
    for column, record in json_keys.COLUMNS.items():
        homes.setdefault(record, column)
    for table, (says, fields) in tables().items():
        parts += [f"## {table}", "", _wrapped(says), "", *map(_field, fields), ""]
        for field in fields:
            parts += _values(field)
            parts += _json(field, {r: c for r, c in homes.items() if c != field.of})
    for view, (says, fields) in views().items():
        parts += [f"## {view} (view)", "", _wrapped(says), "", *map(_field, fields), ""]
    return "\n".join(parts).rstrip() + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _item(text: str) -> str:
    return _wrapped(f"- {text}", "  ")


def _field(field: Field) -> str:
    return _item(f"`{field.name}` ({field.kind}): {field.means}")


def _values(field: Field) -> list[str]:
    values = values_of(field.of)
    rows = [_item(f"`{value}`: {means}") for value, means in values.items()]
    return [f"Values of `{field.name}`:", "", *rows, ""] if rows else []


def _json(field: Field, elsewhere: Mapping[type, str]) -> list[str]:
    """The keys of a JSON column, one list for each of its records."""
    where: dict[type, list[str]] = {}
    for value, record in records_of(field.of).items():
        where.setdefault(record, []).append(f"`{value}`" if value else "")
    decides = json_keys.COLUMNS_BY.get(field.of, ("", {}))[0]
    parts: list[str] = []
    for record, values in where.items():
        title = f"JSON keys of `{field.name}`"
        title += f" where `{decides}` is {' or '.join(values)}" if decides else ""
        if record in elsewhere:
            parts += [_wrapped(f"{title}: those of `{elsewhere[record]}`."), ""]
            continue
        rows = [_item(f"`{k.name}` ({k.kind}): {k.means}") for k in keys_of(record, elsewhere)]
        parts += [_wrapped(f"{title}: {doc_of(record)}".rstrip()), "", *rows, ""]
    return parts
