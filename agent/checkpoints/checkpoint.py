"""A checkpoint whose files were hashed: the digest is the version that everything is known by."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from agent.checkpoints.header import Header, read_header
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
    shas: Mapping[str, str] = field(repr=False)
    """SHA-256 of each weight file by name."""

    @property
    def whole(self) -> "Checkpoint":
        """The checkpoint that has all weights: the base of adapters, or itself."""
        return self.base if isinstance(self.base, Checkpoint) else self

    def ref(self, role: str) -> ModelRef:
        return ModelRef(role, self.version, str(self.path.resolve()), self)


def verify_checkpoint(path: Path | str) -> Checkpoint:
    """Read a directory's header and hash its files, each once a process while it stays as it is.

    Raises CheckpointError for a directory that may not be opened, or is not what was written.
    """
    path = Path(path)
    header = read_header(path)  # what no network can be made of is refused before it is hashed
    files = verified_files(path)
    config_sha = hashlib.sha256(header.config_raw)
    if files.get("config.json", config_sha.hexdigest()) != config_sha.hexdigest():
        raise CheckpointError(
            f"config.json of {path} changed while it was read", "run the same command again"
        )
    shas = {name: files.get(name) or file_sha(path, name) for name in header.shards}
    digest = hashlib.sha256(header.config_raw)
    for sha in shas.values():
        digest.update(bytes.fromhex(sha))
    read = {f.name: getattr(header, f.name) for f in fields(Header)}
    if header.base is not None:
        base = _verified_base(header)
        digest.update(f"{header.adapter} {base.version}".encode())
        read["base"] = base
    manifest = file_sha(path, MANIFEST) if files else ""
    return Checkpoint(**read, version=digest.hexdigest()[:16], manifest_sha=manifest, shas=shas)


def _verified_base(header: Header) -> Checkpoint:
    assert header.base is not None
    base, expected = verify_checkpoint(header.base.path), header.notes["base"]["version"]
    if base.version != expected:
        raise CheckpointError(
            f"the adapters in {header.path} are of the base {expected}, and {base.path} holds "
            f"{base.version}",
            "restore the base's files, or name its directory in ratchet.json",
        )
    return base


def verify_ref(ref: ModelRef) -> Checkpoint:
    """The checkpoint that a reference names. Raises CheckpointError when it is another one."""
    found = verify_checkpoint(ref.path)
    if found.version != ref.version:
        raise CheckpointError(
            f"the weights in {ref.path} are {found.version}, not {ref.version}",
            "the files changed after they were registered; restore them",
        )
    return found
