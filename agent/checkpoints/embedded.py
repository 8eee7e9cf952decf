"""The models that come with the package, by task and role."""

from pathlib import Path

EMBEDDED = Path(__file__).parent.parent / "embedded"


def embedded_path(task: str, role: str) -> Path | None:
    """Directory of the embedded checkpoint; None where the task has none."""
    path = EMBEDDED / task / role
    return path if (path / "config.json").is_file() else None
