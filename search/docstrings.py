"""What is written below the fields of a class, so that it can be shown where people meet them."""

import ast
import functools
import inspect
from pathlib import Path


@functools.cache
def _classes(file: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _source(owner: type) -> ast.ClassDef:
    return _classes(inspect.getsourcefile(owner) or "")[owner.__name__]


def doc_of(owner: type) -> str:
    """A class's own docstring on one line; empty where there is none."""
    return " ".join((ast.get_docstring(_source(owner)) or "").split())


def docs_of(owner: type) -> dict[str, str]:
    """Field of a class, in order, to the docstring below its line; empty where there is none."""
    body = _source(owner).body
    found: dict[str, str] = {}
    for line, after in zip(body, [*body[1:], None], strict=True):
        match line:
            case ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]):
                if not name.startswith("_"):
                    found[name] = _text_of(after)
    return found


def _text_of(line: ast.stmt | None) -> str:
    match line:
        case ast.Expr(ast.Constant(str(text))):
            return " ".join(text.split())
        case _:
            return ""
