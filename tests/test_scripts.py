"""What a script imports of the project is there, whether or not anybody runs the script."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").rglob("*.py"))
FLOORS = ("agent", "critics", "kernels", "search", "store")


def imported(path: Path) -> list[tuple[str, str]]:
    """(module, name) of every `from module import name`."""
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_script_imports_what_is_there(path: Path) -> None:
    for module, name in imported(path):
        floor = module.split(".")[0]
        if floor in FLOORS:
            found = importlib.import_module(module)
            assert hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}"), name
        elif floor == "scripts":  # which are not imported: some change the process
            at = ROOT / module.replace(".", "/")
            if at.is_dir():
                assert (at / f"{name}.py").is_file() or (at / name).is_dir(), name
            else:
                assert name in defined(at.with_suffix(".py")), f"{module} has no {name}"


def defined(path: Path) -> set[str]:
    """Names that a module has at its top."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {a.asname or a.name for a in node.names}
    return found
