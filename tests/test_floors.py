"""Imports point down: search and kernels below critics and store below agent."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"search", "kernels", "critics", "store", "agent", "tests", "scripts"}
MAY_IMPORT = {
    "search": {"search"},
    "kernels": {"kernels"},
    "critics": {"critics", "search", "kernels"},
    "store": {"store", "search", "kernels"},
    "agent": {"agent", "critics", "store", "search", "kernels"},
}
MAY_NOT_IMPORT = {
    "search": {"torch", "transformers", "ray", "sqlalchemy", "time", "random", "os"},
    "critics": {"sqlalchemy", "ray"},
    "store": {"torch", "transformers", "ray"},
    "kernels": {"transformers", "ray", "sqlalchemy"},
}
FILES = [p for floor in MAY_IMPORT for p in sorted((ROOT / floor).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_its_floor_and_below(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & OURS <= MAY_IMPORT[floor]
    assert not names & MAY_NOT_IMPORT.get(floor, set())


def test_the_kernels_package_is_a_bare_docstring() -> None:
    tree = ast.parse((ROOT / "kernels/__init__.py").read_text())
    assert len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)


FORBIDDEN = ("eval", "exec", "compile")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_from_outside_is_run_or_unpickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load")
        if isinstance(node, ast.keyword):
            assert node.arg != "trust_remote_code"
    assert "pickle" not in imported(path)
