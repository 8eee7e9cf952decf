"""`ratchet doctor`: is this machine fit, and what to do where it is not."""

import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil

from agent.checkpoints.base_models import base_checkpoints
from agent.cli.output import emit, table
from agent.config.settings import Config
from agent.networks.device import multiplies_bfloat16
from kernels.dispatch import OPERATIONS, implementation
from search.errors import RatchetError
from store.address import sqlite_path
from store.check import check_store
from store.database import read_store

FLOORS = {"torch": "2.10", "transformers": "5.3", "vllm": "0.22.1", "ray": "2.52"}
"""Versions below these have published security flaws."""

Check = dict[str, Any]


def run(config: Config, as_json: bool) -> None:
    checks = [
        *_versions(),
        *_machine(config.store),
        *_network(),
        *_models(config),
        *_store(config.store),
    ]
    if as_json:
        emit(checks)
    else:
        table(checks)
    if any(c["verdict"] == "bad" for c in checks):
        raise SystemExit(7)


def _check(name: str, is_good: bool, found: str, fix: str = "", is_fatal: bool = True) -> Check:
    verdict = "good" if is_good else "bad" if is_fatal else "note"
    return {"check": name, "verdict": verdict, "found": found, "fix": "" if is_good else fix}


def _number(version: str) -> tuple[int, ...]:
    return tuple(
        int("".join(c for c in p if c.isdigit()) or 0) for p in version.split("+")[0].split(".")
    )


def _versions() -> Iterator[Check]:
    yield _check(
        "python", sys.version_info >= (3, 11), platform.python_version(), "use 3.11 or newer"
    )
    for name, floor in FLOORS.items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield _check(name, name == "vllm", "not installed", f"pip install {name}")
            continue
        is_good = _number(version) >= _number(floor)
        yield _check(name, is_good, version, f"pip install -U '{name}>={floor}'")
    try:
        other = importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        return
    yield _check(
        "package kernels", False, f"PyPI kernels {other} shadows ours", "pip uninstall kernels"
    )


def _machine(store: str) -> Iterator[Check]:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    yield _check("device", True, device)
    does = "multiplies" if multiplies_bfloat16() else "does not multiply"
    yield _check("bfloat16", True, f"the processor {does} it natively")
    yield _check("kernels", True, ", ".join(map(implementation, OPERATIONS)))
    path = sqlite_path(store)
    folder = (path.parent if path else Path()).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    yield _check(
        "free disk",
        free > 2_000_000_000,
        f"{free / 1e9:.1f} GB at {folder}",
        "free some space; a round of the embedded default needs about 0.3 GB",
        free < 500_000_000,
    )
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0
    yield _check(
        "shared memory",
        shared > 500_000_000,
        f"{shared / 1e9:.1f} GB in /dev/shm",
        "Ray falls back to /tmp, which is slower",
        False,
    )


def _network() -> Iterator[Check]:
    """What of ours and of Ray's listens where, and who may read Ray's token."""
    try:
        listening = _listening()
    except psutil.AccessDenied:
        yield _check("listeners", False, "this user may not see them", "run it as root", False)
    else:
        is_open = any(not ip_address(host).is_loopback for host, _, _ in listening)
        shown = ", ".join(f"{host}:{port} {name}" for host, port, name in sorted(listening))
        yield _check(
            "listeners",
            not is_open,
            shown or "none of Ratchet or Ray",
            "a cluster of several machines is reached over the network: keep it behind a firewall",
            False,
        )
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():
        mode = token.stat().st_mode & 0o777
        yield _check(
            "Ray's token", not mode & 0o077, f"{token}, mode {mode:o}", f"chmod 600 {token}"
        )


def _listening() -> set[tuple[str, int, str]]:
    """Address, port and program of the listening sockets of Ray and Ratchet."""
    found = set()
    for seen in psutil.net_connections("inet"):
        if seen.status != psutil.CONN_LISTEN or not seen.pid:
            continue
        try:
            line = psutil.Process(seen.pid).cmdline()
        except psutil.Error:
            continue
        words = " ".join(line)
        if "ray::" in words or "/ray/" in words or "ratchet" in words or "-m agent" in words:
            host = seen.laddr.ip.removeprefix("::ffff:")
            name = (words if words.startswith("ray::") else Path(line[0]).name).split()[0]
            found.add((host, seen.laddr.port, name))
    return found


def _models(config: Any) -> Iterator[Check]:
    try:
        base = base_checkpoints(config)
    except RatchetError as error:
        yield _check("policy", False, error.message, error.fix)
        return
    for role, checkpoint in base.items():
        yield _check(role, True, f"{checkpoint.version}, {checkpoint.num_bytes / 1e6:.1f} MB")


def _store(url: str) -> Iterator[Check]:
    try:
        store = read_store(url)
        broken = {name: n for name, n in check_store(store).items() if n}
        yield _check(
            "store",
            not broken,
            f"{store.shown}: {broken or 'all invariants hold'}",
            "see `ratchet store check`",
        )
    except RatchetError as error:
        yield _check("store", False, error.message, error.fix, error.exit_code != 3)
