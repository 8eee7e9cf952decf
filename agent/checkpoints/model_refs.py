"""The five models by role: which weights, where they lie, and what their headers say."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.checkpoints.header import Header, read_header
from critics.calibration import Calibration
from critics.registry import NAMES
from store.states import Role

CRITIC_ROLES = NAMES
CHECKER = Role.CHECKER.value
"""A sixth model, of runs without a tool that ask for it (`critics.checker_steps`)."""
ROLES = ("policy", "drafter", *CRITIC_ROLES)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """One role's weights. It travels between processes; whoever loads it verifies the digest."""

    role: str
    version: str
    path: str
    header: Header = field(compare=False, repr=False)
    """What was read of the directory when the reference was made: nobody asks the disk again."""

    @classmethod
    def at(cls, role: str, version: str, path: str) -> "ModelRef":
        """A reference to registered weights, their header read. Raises CheckpointError."""
        return cls(role, version, path, read_header(path))

    @property
    def max_positions(self) -> int:
        """Longest context in tokens."""
        return self.header.architecture.max_positions

    @property
    def vocab_size(self) -> int:
        return self.header.architecture.vocab_size


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The models of a search; a command that only writes texts has the policy alone, a run without
    a tool may have a checker, too."""

    refs: Mapping[str, ModelRef]

    @property
    def policy(self) -> ModelRef:
        return self.refs["policy"]

    @property
    def versions(self) -> dict[str, str]:
        return {role: ref.version for role, ref in self.refs.items()}

    def calibration(self, role: str) -> Calibration:
        """How a critic's logits become probabilities."""
        return self.refs[role].header.calibration

    def distrusted(self, min_auc: float) -> dict[str, str]:
        """Critic, or checker, to why its word does not count, of those measured to rank too
        badly."""
        judges = (*CRITIC_ROLES, CHECKER)
        aucs = {role: ref.header.auc for role, ref in self.refs.items() if role in judges}
        return {
            role: f"held-out AUC {auc:.2f} is under {min_auc:g}"
            for role, auc in aucs.items()
            if auc is not None and auc < min_auc
        }
