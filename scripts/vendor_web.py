"""Fetch the viewer's libraries from npm, or compare what is there with their digests.

python -m scripts.vendor_web            # needs npm; writes the files and THIRD_PARTY.md
python -m scripts.vendor_web --check    # needs nothing; exits with 1 where a file differs
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "agent/viewer/static/vendor"
TABLE = FOLDER / "THIRD_PARTY.md"


@dataclass(frozen=True)
class Vendored:
    package: str
    version: str
    licence: str
    files: tuple[tuple[str, str], ...]
    """Path in the package, name here."""


VENDORED = (
    Vendored("htm", "3.1.1", "Apache-2.0", (("preact/standalone.umd.js", "htm-preact.js"),)),
    Vendored("d3-hierarchy", "3.1.3", "ISC", (("dist/d3-hierarchy.min.js", "d3-hierarchy.js"),)),
    Vendored(
        "uplot",
        "1.6.32",
        "MIT",
        (
            ("dist/uPlot.iife.min.js", "uPlot.iife.min.js"),
            ("dist/uPlot.min.css", "uPlot.min.css"),
        ),
    ),
    Vendored("diff", "9.0.0", "BSD-3-Clause", (("dist/diff.min.js", "diff.js"),)),
)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetched(each: Vendored, folder: Path) -> None:
    name = f"{each.package}@{each.version}"
    packed = subprocess.run(
        ["npm", "pack", "--json", "--silent", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    archive = folder / json.loads(packed.stdout)[0]["filename"]
    with tarfile.open(archive) as tar:
        for inside, here in each.files:
            member = tar.extractfile(f"package/{inside}")
            assert member is not None
            (FOLDER / here).write_bytes(member.read())
        licence = tar.extractfile("package/LICENSE")
        assert licence is not None
        (FOLDER / f"{each.package}.LICENSE").write_bytes(licence.read())


def table() -> str:
    rows = [
        f"| {here} | {v.package} {v.version} | {v.licence} | {digest(FOLDER / here)} |"
        for v in VENDORED
        for _, here in v.files
    ]
    head = [
        "# Libraries of the viewer",
        "",
        "Taken from npm as published by `python -m scripts.vendor_web`; each licence lies beside.",
        "",
        "| file | package | licence | SHA-256 |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *rows]) + "\n"


def differing() -> list[str]:
    """Files that are not what the table says, or are missing."""
    told = {
        cells[1].strip(): cells[4].strip()
        for line in TABLE.read_text().splitlines()
        if len(cells := line.split("|")) == 6 and len(cells[4].strip()) == 64
    }
    names = {here for v in VENDORED for _, here in v.files}
    found = {n for n in names if not (FOLDER / n).is_file() or told.get(n) != digest(FOLDER / n)}
    return sorted(found | (told.keys() - names))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only compare digests")
    if not parser.parse_args().check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for each in VENDORED:
                fetched(each, Path(folder))
        TABLE.write_text(table())
    if wrong := differing():
        print(f"not what THIRD_PARTY.md says: {', '.join(wrong)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
