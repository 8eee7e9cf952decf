"""The shape of the code: how large its rooms and functions are, and what imports what.

Reads source alone and runs none of it. Further checkouts stand beside this one, so that a change
of the house is shown by numbers of before and after.

    python -m scripts.bench.shape . --before /tmp/before
"""

import argparse
import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

FOLDERS = ("agent", "search", "critics", "kernels", "store")
MOST_ARGUMENTS = 6


@dataclass
class Code:
    """What is counted of one checkout."""

    files: dict[str, ast.Module] = field(default_factory=dict)
    """By dotted name."""
    lines: dict[str, int] = field(default_factory=dict)
    format_skips: int = 0

    @classmethod
    def read(cls, root: Path) -> "Code":
        code = cls()
        for folder in FOLDERS:
            for path in sorted((root / folder).rglob("*.py")):
                if "migrations" in path.parts:
                    continue
                text = path.read_text(encoding="utf-8")
                name = ".".join(path.relative_to(root).with_suffix("").parts)
                name = name.removesuffix(".__init__")
                tree = ast.parse(text)
                if path.name == "__init__.py" and len(tree.body) <= 1:
                    continue  # a docstring at most
                code.files[name] = tree
                code.lines[name] = text.count("\n")
        for path in root.rglob("*.py"):
            if ".venv" not in path.parts:
                code.format_skips += path.read_text(encoding="utf-8").count("fmt: " + "skip")
        return code

    def imports(self, name: str) -> set[str]:
        """Files of this checkout that a file imports."""
        found: set[str] = set()
        for node in ast.walk(self.files[name]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inner & self.files.keys() or {node.module}
        return found & self.files.keys() - {name}

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for tree in self.files.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield node

    def public_names(self) -> int:
        """Functions, classes and constants at the top of a file without an underscore before."""
        names: list[str] = []
        for tree in self.files.values():
            for node in tree.body:
                match node:
                    case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                        names.append(node.name)
                    case ast.Assign(targets=[ast.Name(id=name)]):
                        names.append(name)
                    case ast.AnnAssign(target=ast.Name(id=name)):
                        names.append(name)
        return sum(not name.startswith("_") for name in names)

    def rooms(self) -> dict[str, list[str]]:
        """Files of agent/ by folder; those beside the folders together."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            parts = name.split(".")
            if parts[0] == "agent":
                found.setdefault(parts[1] if len(parts) > 2 else "(flat)", []).append(name)
        return found


def room_graph(code: Code) -> dict[str, set[str]]:
    """Boxes of agent/ (folders, and the files beside them) and those that each imports."""

    def box(name: str) -> str:
        return ".".join(name.split(".")[:2])

    graph: dict[str, set[str]] = {}
    for name in code.files:
        if name.startswith("agent."):
            others = {box(n) for n in code.imports(name) if n.startswith("agent.")}
            graph.setdefault(box(name), set()).update(others - {box(name)})
    return {k: v & graph.keys() for k, v in graph.items()}


def floors(graph: dict[str, set[str]]) -> int:
    """Boxes on the longest way down; 0 where boxes import each other in a circle."""
    levels: dict[str, int] = {}
    while len(levels) < len(graph):
        ready = {k for k, v in graph.items() if k not in levels and v <= levels.keys()}
        if not ready:
            return 0
        levels |= {k: 1 + max((levels[n] for n in graph[k]), default=0) for k in ready}
    return max(levels.values(), default=0)


def shape(root: Path) -> dict[str, str]:
    """Each measure to its value, as printed."""
    code = Code.read(root)
    lengths = sorted((f.end_lineno or 0) - f.lineno + 1 for f in code.functions())
    many = sum(
        len([a for a in (*f.args.args, *f.args.kwonlyargs) if a.arg not in ("self", "cls")])
        > MOST_ARGUMENTS
        for f in code.functions()
    )
    fan_out = sorted(((len(code.imports(n)), n) for n in code.files), reverse=True)
    graph = room_graph(code)
    mutual = sum(a < b and a in graph[b] for a in graph for b in graph[a])
    rooms = sorted(code.rooms().items())
    return {
        "files": str(len(code.files)),
        "lines": str(sum(code.lines.values())),
        "longest files": ", ".join(
            f"{n} {lines}" for n, lines in sorted(code.lines.items(), key=lambda x: -x[1])[:3]
        ),
        "files of agent/ by room": ", ".join(f"{room} {len(names)}" for room, names in rooms),
        "boxes of agent/": str(len(graph)),
        "arrows between them": str(sum(map(len, graph.values()))),
        "floors (0: a circle)": str(floors(graph)),
        "pairs that import each other": str(mutual),
        "largest fan-outs": ", ".join(f"{n} {count}" for count, n in fan_out[:5]),
        "functions": str(len(lengths)),
        "lines of a function: median": f"{median(lengths):g}",
        "lines of a function: 90th": str(lengths[int(0.9 * len(lengths))]),
        "lines of a function: longest": str(lengths[-1]),
        f"functions of more than {MOST_ARGUMENTS} arguments": str(many),
        "public names": str(code.public_names()),
        "fmt: " + "skip": str(code.format_skips),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, nargs="?", default=Path(), help="default: this one")
    parser.add_argument("--before", type=Path, help="an earlier checkout, as the first column")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    args = parser.parse_args()
    roots = [args.before, args.checkout] if args.before else [args.checkout]
    for root in roots:
        if not (root / "agent").is_dir():
            parser.error(f"{root} is no checkout: it has no agent/")
    columns = [shape(root) for root in roots]
    if args.json:
        print(json.dumps([dict(c, root=str(r)) for r, c in zip(roots, columns, strict=True)]))
        return
    heads = ["before", "now"][-len(columns) :]
    print("| measure | " + " | ".join(heads) + " |")
    print("| --- " * (1 + len(heads)) + "|")
    for measure in columns[-1]:
        print(f"| {measure} | " + " | ".join(c[measure] for c in columns) + " |")


if __name__ == "__main__":
    main()
