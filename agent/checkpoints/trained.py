"""What a training job came to: a published checkpoint, its parent, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.model_refs import ModelRef


@dataclass(frozen=True, slots=True)
class Trained:
    """Plain values, so that it travels from another process."""

    role: str
    version: str
    path: str
    parent_version: str
    num_bytes: int
    manifest_sha: str
    report: dict[str, Any]
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss of the last steps), as far as the job reported it."""

    @classmethod
    def of(
        cls,
        role: str,
        child: Checkpoint,
        parent_version: str,
        report: Mapping[str, Any],
        curve: Sequence[tuple[int, float]] = (),
    ) -> "Trained":
        """Of a checkpoint that was just published."""
        return cls(
            role,
            child.version,
            str(child.path),
            parent_version,
            child.num_bytes,
            child.manifest_sha,
            dict(report),
            list(curve),
        )

    def ref(self) -> ModelRef:
        """The new weights. Whoever loads them verifies the digest."""
        return ModelRef.at(self.role, self.version, self.path)
