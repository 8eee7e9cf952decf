"""Which code made a result."""

import importlib.metadata
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def code_version() -> str:
    """Version of the package and, in a checkout, its commit; also from a plain copy of the tree."""
    version, commit = _version(), _commit()
    return f"{version}+{commit}" if commit else version


def _version() -> str:
    """Of the pyproject.toml beside the code, else of the installed package."""
    try:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        if project["name"] == "ratchet-llm":
            return str(project["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return importlib.metadata.version("ratchet-llm")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _commit() -> str:
    """Empty outside of a checkout of its own: a copy inside of another one has no commit."""
    try:
        top, commit = subprocess.run(
            ["git", "rev-parse", "--show-toplevel", "--short=12", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.splitlines()
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""
    return commit if Path(top).resolve() == ROOT.resolve() else ""
