"""Checkpoints are read once: headers without weights, and each file hashed once a process."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.checkpoints import manifest
from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.header import read_header
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from tests.agent.conftest import write_checkpoint
from tests.agent.rounds.small import SMALL, places

Hashed = Counter[tuple[str, int]]
"""Name and inode of a file to how often it was hashed."""


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Hashed:
    """What this process hashes from now on."""
    seen: Hashed = Counter()
    plain = manifest.digest_of

    def counting(handle: int) -> str:
        name = Path(os.readlink(f"/proc/self/fd/{handle}")).name
        seen[name, os.fstat(handle).st_ino] += 1
        return plain(handle)

    monkeypatch.setattr(manifest, "digest_of", counting)
    return seen


@pytest.mark.round
def test_two_rounds_hash_each_file_of_each_checkpoint_once(
    checkpoint: Path, tmp_path: Path, hashed: Hashed
) -> None:
    """Base policy, first critics and drafter, two rounds that train five models each."""
    # The base is somebody else's file: it counts as settled a tick after it was written.
    time.sleep(2 * manifest.RACY_NS / 1e9)
    config, _ = load_config(SMALL | places(tmp_path) | {"policy": str(checkpoint)})
    with Improver(config, Silent()).started() as improver:
        for _ in range(2):
            improver.run_round()
    weights = [name for name, _ in hashed if name == "model.safetensors"]
    published = len(list((tmp_path / "checkpoints").glob("*-*/model.safetensors")))
    assert len(weights) >= published >= 8
    assert set(hashed.values()) == {1}


def test_a_header_is_read_without_a_byte_of_the_weights(checkpoint: Path, hashed: Hashed) -> None:
    weights = checkpoint / "model.safetensors"
    raw = weights.read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    weights.write_bytes(raw[:begin] + b"\xff" * (len(raw) - begin))  # all of them NaN
    header = read_header(checkpoint)
    assert header.architecture.max_positions == 256 and header.num_bytes == len(raw)
    assert header.shards == ("model.safetensors",) and not hashed


def test_a_file_that_changes_is_hashed_again(checkpoint: Path) -> None:
    before = verify_checkpoint(checkpoint).version
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert verify_checkpoint(checkpoint).version != before
    weights.write_bytes(whole)
    assert verify_checkpoint(checkpoint).version == before


def test_a_file_of_another_checkpoint_with_the_same_name_is_another_file(tmp_path: Path) -> None:
    one = verify_checkpoint(write_checkpoint(tmp_path / "a", seed=1))
    other = verify_checkpoint(write_checkpoint(tmp_path / "b", seed=2))
    assert one.version != other.version
