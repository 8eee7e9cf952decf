"""Does compression tell which policies answer better? Over the versions that past runs measured.

    python -m scripts.bench.compression --store runs/a/store.db --store runs/b/store.db
    python -m scripts.bench.compression --store A --store B --corpus worked.txt --json out.json

Of each policy with greedy answers to the same held-out problems: their accuracy, the conditional
bits per character of held-out solutions that the run wrote down, and, with a corpus, bits per
character of that as one stream (`ratchet evaluate --corpus`). Versions of one run share their
teachers, so the interval of the correlation is narrower than it should be.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from sqlalchemy import select

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.model_refs import ModelSet
from agent.config.load import load_config
from agent.evaluation.corpus import corpus_compression, read_corpus
from agent.evaluation.intervals import correlation
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.progress import Silent
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from scripts.bench.report import Row, missing, show, write
from store.database import read_store
from store.evaluations import measured_policies
from store.schema import EvaluationRow, Run


@dataclass(frozen=True, slots=True)
class Version:
    store: str
    task: str
    version: str
    path: str
    accuracy: float
    n: int
    conditional: float | None


def versions_of(address: str) -> list[Version]:
    url = address if "://" in address else f"sqlite:///{Path(address).resolve()}"
    store = read_store(url)
    with store.session() as session:
        task = session.scalars(select(Run.task)).first() or ""
        bits = {
            row.policy_version: row.bits_per_character
            for row in session.scalars(select(EvaluationRow).where(EvaluationRow.mode == "greedy"))
        }
        found = [
            Version(address, task, m.version, m.path, m.num_correct / m.n, m.n, bits[m.version])
            for m in measured_policies(session, task)
        ]
    store.close()
    return found


def related(name: str, xs: list[float], versions: list[Version]) -> Row:
    found = correlation(xs, [v.accuracy for v in versions])
    if found is None:
        return missing(name, f"{len(xs)} versions that differ too little")
    r, low, high = found
    return {
        "name": name,
        "value": r,
        "unit": "Pearson's r with greedy accuracy",
        "low": low,
        "high": high,
        "n": len(xs),
        "baseline": "no relation: 0",
    }


def streamed(versions: list[Version], file: Path) -> list[float]:
    """Bits per character of the corpus by each policy."""
    documents = read_corpus(str(file))
    config, _ = load_config({"task": versions[0].task})
    task, hosts = open_task(config), InlineHosts(HostSettings())
    found = []
    for version in versions:
        ref = verify_checkpoint(Path(version.path)).ref("policy")
        models = Models(hosts, ModelSet({"policy": ref}), task, ModelSettings.of(config))
        found.append(corpus_compression(models, documents, Silent()).bits_per_character)
    hosts.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", action="append", required=True, help="of a run; repeatable")
    parser.add_argument("--corpus", type=Path, help="also measured as one stream")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seen = {v.version: v for address in arguments.store for v in versions_of(address)}
    versions = list(seen.values())
    if len({(v.task, v.n) for v in versions}) != 1:
        print("the stores' policies were asked different problems", file=sys.stderr)
        return 1
    told = [v for v in versions if v.conditional is not None]
    rows = [related("conditional", [v.conditional or 0.0 for v in told], told)]
    streams: list[float] = []
    if arguments.corpus:
        streams = streamed(versions, arguments.corpus)
        rows.append(related("stream", streams, versions))
    for i, v in enumerate(versions):
        stream = f", stream {streams[i]:.4f}" if streams else ""
        bits = "-" if v.conditional is None else f"{v.conditional:.4f}"
        print(f"{v.version}  accuracy {v.accuracy:.3f} of {v.n}, conditional {bits}{stream}")
    for row in rows:
        show(row)
    known = [
        {"version": v.version, "accuracy": v.accuracy, "n": v.n, "conditional": v.conditional}
        | ({"stream": streams[i]} if streams else {})
        for i, v in enumerate(versions)
    ]
    settings = {"policies": known, "corpus": str(arguments.corpus or "")}
    write(arguments.json, "compression", settings, [], rows)
    print(json.dumps({row["name"]: row["value"] for row in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
