"""A checkpoint whose files were hashed: the digest is the version that everything is known by."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from agent.checkpoints.header import Header, check_files, read_header
from agent.checkpoints.manifest import MANIFEST, file_sha, verified_files
from agent.checkpoints.model_refs import ModelRef
from search.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Checkpoint(Header):
    """A directory that is whole and may be loaded."""

    version: str
    """First 16 hexadecimal digits of the digest over the weights and config.json."""
    manifest_sha: str
    """SHA-256 of manifest.json; empty for a checkpoint without one."""

    def ref(self, role: str) -> ModelRef:
        return ModelRef(role, self.version, str(self.path.resolve()), self)


def verify_checkpoint(path: Path | str) -> Checkpoint:
    """Read a directory's header and hash its files, each once a process while it stays as it is.

    Raises CheckpointError for a directory that may not be opened, or is not what was written.
    """
    path = Path(path)
    check_files(path)
    files = verified_files(path)
    header = read_header(path)
    digest = hashlib.sha256((header.path / "config.json").read_bytes())
    for name in header.shards:
        digest.update(bytes.fromhex(files.get(name) or file_sha(header.path / name)))
    manifest = file_sha(header.path / MANIFEST) if files else ""
    read = {f.name: getattr(header, f.name) for f in fields(Header)}
    return Checkpoint(**read, version=digest.hexdigest()[:16], manifest_sha=manifest)


def verify_ref(ref: ModelRef) -> Checkpoint:
    """The checkpoint that a reference names. Raises CheckpointError when it is another one."""
    found = verify_checkpoint(ref.path)
    if found.version != ref.version:
        raise CheckpointError(
            f"the weights in {ref.path} are {found.version}, not {ref.version}",
            "the files changed after they were registered; restore them",
        )
    return found
