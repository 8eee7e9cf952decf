"""What every table, view and column means, generated from the models and their docstrings."""

import ast
import inspect
from pathlib import Path

from sqlalchemy.orm import DeclarativeBase

from store import schema

VIEWS = {
    "readable_rounds": "a round with what its searches came to",
    "readable_searches": "a search with its run, round and problem",
    "readable_nodes": "a tree node with its text, Q, and the mean of each critic's scores",
    "readable_trajectories": "a finished text with its problem, and in how many datasets it is",
}


def column_docs() -> dict[str, dict[str, str]]:
    """Table to column to the docstring below its line; empty where there is none."""
    tree = ast.parse(Path(inspect.getsourcefile(schema) or "").read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        docs: dict[str, str] = {}
        for line, after in zip(node.body, [*node.body[1:], None], strict=True):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            says = after.value if isinstance(after, ast.Expr) else None
            is_text = isinstance(says, ast.Constant) and isinstance(says.value, str)
            docs[line.target.id] = " ".join(str(says.value).split()) if is_text else ""  # type: ignore[union-attr]
        found[node.name] = docs
    return found


def dictionary() -> str:
    """Markdown: a section a table, a row a column."""
    docs = column_docs()
    parts = ["# Data dictionary", "", "Times are microseconds since the epoch, UTC.", ""]
    for mapper in sorted(schema.Base.registry.mappers, key=lambda m: str(m.local_table)):
        model: type[DeclarativeBase] = mapper.class_
        table = mapper.local_table
        says = " ".join((model.__doc__ or "").split())
        parts += [f"## {table}", "", *([says, ""] if says else [])]
        parts += ["| column | type | | means |", "| --- | --- | --- | --- |"]
        for column in table.columns:
            marks = ["key"] if column.primary_key else []
            marks += [f"-> {k.target_fullname}" for k in column.foreign_keys]
            marks += ["may be empty"] if column.nullable else []
            means = docs[model.__name__].get(column.key, "")
            parts.append(f"| {column.name} | {column.type} | {', '.join(marks)} | {means} |")
        parts.append("")
    parts += ["## Views", "", "| view | a row is |", "| --- | --- |"]
    parts += [f"| {name} | {says} |" for name, says in VIEWS.items()]
    return "\n".join(parts) + "\n"
