"""The service under its clients, under load, under faults and under attack.

    python -m scripts.bench.service --quick                     # two minutes
    python -m scripts.bench.service --only load                 # ten minutes
    python -m scripts.bench.service --only clients --python /opt/clients/bin/python
    python -m scripts.bench.service --only real --real DIR      # ten minutes
    python -m scripts.bench.service --json results.json         # all of it, an hour

Sections: clients (openai-python and openai-node; with --python, an environment that has lm-eval and
inspect-ai, these two; schemathesis where it is installed), load (1 to 64 clients beside the same
requests in turn and beside a round's own searches; memory over ten minutes), faults (disconnects,
cancels, killed actors, a store that goes away, a promotion), attacks (malformed requests, slow
clients, every route with each key), viewer (trees of 1,000 and 20,000 nodes in Chromium;
--screenshots DIR), real (word problems of the run that `scripts.bench.real` made in DIR). Servers
are processes of their own; but for real they have the embedded models.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch

from scripts.bench.report import Row, show, write
from scripts.bench.served_attacks import attacks
from scripts.bench.served_clients import clients
from scripts.bench.served_faults import faults
from scripts.bench.served_load import load
from scripts.bench.served_real import real
from scripts.bench.viewer import measured

SECTIONS = ("clients", "load", "faults", "attacks", "viewer", "real")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help=f"sections, by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--python", default="", help="of an environment with lm-eval, inspect-ai")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages")
    parser.add_argument("--real", type=Path, help="folder of scripts.bench.real, with its round")
    parser.add_argument("--memory-s", type=int, default=600, help="of the look at the memory")
    parser.add_argument("--quick", action="store_true", help="true but smaller")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    sections = [s for s in given.only.split(",") if s] or list(SECTIONS)
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown section {min(unknown)!r}; there are {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    rows: list[Row] = []
    made: dict[str, Iterator[Row]] = {
        "clients": clients(given.quick, given.python),
        "load": load(given.quick, given.memory_s),
        "faults": faults(given.quick),
        "attacks": attacks(given.quick),
        "viewer": measured(3 if given.quick else 7, given.screenshots),
        "real": real(given.real, 4 if given.quick else 24),
    }
    for section in sections:
        for row in made[section]:
            rows.append(row)
            show(row)
            write(given.json, "service", {"sections": sections, "quick": given.quick}, [0], rows)


if __name__ == "__main__":
    main()
