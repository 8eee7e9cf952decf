"""Which code made a result."""

import importlib.metadata
import subprocess
from pathlib import Path


def code_version() -> str:
    """Version of the package and, in a checkout, its commit."""
    version = importlib.metadata.version("ratchet-llm")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"
