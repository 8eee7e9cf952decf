"""Imports point down, between the top-level folders and between the rooms of agent/."""

import ast
import sys
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
    "critics": {"sqlalchemy", "ray", "torch"},
    "store": {"torch", "transformers", "ray"},
    "kernels": {"transformers", "ray", "sqlalchemy"},
    "agent": {"sqlalchemy", "alembic"},
}
ROOMS = {
    "signals": set(),
    "visible": set(),
    "scratch": set(),
    "config": set(),
    "networks": set(),
    "progress": {"visible"},
    "tracking": {"progress"},
    "lengths": set(),
    "checkpoints": {"config", "networks"},
    "pictures": {"checkpoints", "networks"},
    "tasks": {"config", "networks", "pictures", "scratch"},
    "engine": {"checkpoints", "networks"},
    "hosting": {
        *("checkpoints", "config", "engine", "networks", "pictures", "scratch", "signals"),
    },
    "prompts": {"config", "engine", "networks", "tasks"},
    "checker": {"checkpoints", "engine", "hosting"},
    "search_models": {
        *("checker", "checkpoints", "config", "engine", "hosting", "lengths", "networks"),
        *("prompts", "tasks"),
    },
    "training": {
        *("checker", "checkpoints", "config", "engine", "hosting", "networks", "pictures"),
        *("progress", "prompts", "scratch", "tasks"),
    },
    "imagination": {"checkpoints", "config", "engine", "search_models", "tasks"},
    "solve": {"search_models", "tasks"},
    "evaluation": {"engine", "progress", "search_models", "tasks"},
    "arena": {"evaluation", "imagination"},
    "reports": {"checkpoints", "evaluation"},
    "defaults": {"checkpoints", "config", "networks", "tasks", "training"},
    "option_trial": {"engine"},
    "gpu_plan": {"checkpoints", "config", "hosting", "networks", "training"},
    "trial": {
        *("checkpoints", "config", "engine", "gpu_plan", "hosting", "networks", "option_trial"),
        *("pictures", "training"),
    },
    "open_models": {
        *("checkpoints", "config", "defaults", "hosting", "scratch", "search_models", "tasks"),
        *("training", "trial"),
    },
    "api": {"config", "evaluation", "open_models", "search_models", "solve"},
    "teach": {
        *("checkpoints", "config", "engine", "evaluation", "hosting", "progress", "prompts"),
        *("search_models", "tasks", "training", "trial"),
    },
    "recipes": {
        *("checkpoints", "config", "engine", "evaluation", "imagination", "open_models"),
        *("progress", "prompts", "search_models", "tasks", "teach", "training", "trial"),
    },
    "rounds": {
        *("checkpoints", "config", "defaults", "engine", "evaluation", "hosting", "imagination"),
        *("lengths", "networks", "progress", "prompts", "search_models", "tasks", "training"),
        "trial",
    },
    "viewer": {"arena", "pictures", "reports"},
    "service": {
        *("checkpoints", "config", "engine", "hosting", "open_models", "rounds", "search_models"),
        *("signals", "solve", "viewer"),
    },
    "cli": {
        *("arena", "checkpoints", "config", "evaluation", "gpu_plan", "hosting", "imagination"),
        *("lengths", "networks", "open_models", "pictures", "progress", "prompts", "recipes"),
        "reports",
        *("rounds", "search_models", "service", "signals", "solve", "tasks", "teach"),
        *("tracking", "viewer", "visible"),
    },
    "__main__": {"cli", "signals"},
}
"""Which rooms of agent/ (folders, and the files beside them) a room may import; lowest first."""
FILES = [p for floor in MAY_IMPORT for p in sorted((ROOT / floor).rglob("*.py"))]


def modules(path: Path) -> set[str]:
    """Dotted names of what a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in modules(path)}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room_of(path: Path) -> str:
    """Of a file in agent/: its folder, or its own name beside the folders."""
    parts = path.relative_to(ROOT / "agent").with_suffix("").parts
    return parts[0]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_its_floor_and_below(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    names = imported(path)
    assert names & OURS <= MAY_IMPORT[floor]
    assert not names & MAY_NOT_IMPORT.get(floor, set())


AGENT = [p for p in FILES if name_of(p).startswith("agent/") and p.name != "__init__.py"]


@pytest.mark.parametrize("path", AGENT, ids=name_of)
def test_a_room_imports_only_the_rooms_that_it_may(path: Path) -> None:
    rooms = {m.split(".")[1] for m in modules(path) if m.startswith("agent.")}
    assert rooms - {room_of(path)} <= ROOMS[room_of(path)]


def test_every_arrow_between_rooms_is_used_and_points_down() -> None:
    """No circle, and so no two rooms that import each other: each stands above all it imports."""
    used: dict[str, set[str]] = {name: set() for name in ROOMS}
    for path in AGENT:
        rooms = {m.split(".")[1] for m in modules(path) if m.startswith("agent.")}
        used[room_of(path)] |= rooms - {room_of(path)}
    assert used == ROOMS
    order = list(ROOMS)
    assert all(order.index(low) < order.index(high) for high in ROOMS for low in ROOMS[high])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_is_named_like_one_of_pythons_own(path: Path) -> None:
    """A file that is run by its path puts its folder first: it would hide the other one."""
    assert path.stem not in sys.stdlib_module_names - {"__init__", "__main__"}


def test_the_kernels_package_is_a_bare_docstring() -> None:
    tree = ast.parse((ROOT / "kernels/__init__.py").read_text())
    assert len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)


FORBIDDEN = ("eval", "exec", "compile")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_from_outside_is_run_or_unpickled(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("torch", "load")
        if isinstance(node, ast.keyword):
            assert node.arg != "trust_remote_code"
    assert "pickle" not in imported(path)
