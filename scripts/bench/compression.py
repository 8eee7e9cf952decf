"""Does compression tell which policies answer better? Over the versions that past runs measured.

    python -m scripts.bench.compression --store runs/a/store.db --store runs/b/store.db
    python -m scripts.bench.compression --store A --store B --corpus worked.txt --json out.json

Of each policy with greedy answers to the same held-out problems: their accuracy, the conditional
bits per character of held-out solutions that the run wrote down, and, with a corpus, bits per
character of that as one stream (`ratchet evaluate --corpus`). Versions of one run share their
teachers, so the interval of the correlation is narrower than it should be.
"""

import argparse
import sys
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
from store.evaluations import Measured, measured_policies
from store.schema import Run


def measured_in(address: str) -> tuple[str, list[Measured]]:
    """(task, policies) of a run's store."""
    url = address if "://" in address else f"sqlite:///{Path(address).resolve()}"
    store = read_store(url)
    with store.session() as session:
        task = session.scalars(select(Run.task)).first() or ""
        found = measured_policies(session, task)
    store.close()
    return task, found


def related(name: str, xs: list[float], versions: list[Measured]) -> Row:
    found = correlation(xs, [v.num_correct / v.n for v in versions])
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


def streamed(task_name: str, versions: list[Measured], file: Path) -> list[float]:
    """Bits per character of the corpus by each policy."""
    documents = read_corpus(str(file))
    config, _ = load_config({"task": task_name})
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
    runs = [measured_in(address) for address in arguments.store]
    versions = list({v.version: v for _, found in runs for v in found}.values())
    if len({v.benchmark for v in versions}) != 1:
        print("the stores' policies were not all asked the same problems", file=sys.stderr)
        return 1
    bits = {v.version: v.bits_per_character for v in versions}
    told = [v for v in versions if bits[v.version] is not None]
    rows = [related("conditional", [b for b in bits.values() if b is not None], told)]
    streams: list[float] = []
    if arguments.corpus:
        streams = streamed(runs[0][0], versions, arguments.corpus)
        rows.append(related("stream", streams, versions))
    known = [
        {"version": v.version, "accuracy": v.num_correct / v.n, "n": v.n}
        | {"conditional": bits[v.version]}
        | ({"stream": streams[i]} if streams else {})
        for i, v in enumerate(versions)
    ]
    for policy in known:
        print(policy)
    for row in rows:
        show(row)
    settings = {"policies": known, "corpus": str(arguments.corpus or "")}
    write(arguments.json, "compression", settings, [], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
