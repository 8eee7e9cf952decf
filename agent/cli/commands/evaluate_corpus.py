"""`ratchet evaluate --corpus`: how well policies compress a text, and whether that tells which of
them answers better."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.model_refs import ModelRef, ModelSet
from agent.cli.output import emit, share, table
from agent.config.settings import Config
from agent.evaluation.corpus import WINDOW, Compression, corpus_compression, read_corpus
from agent.evaluation.intervals import FEWEST, correlation, wilson
from agent.open_models import open_models, opened_over
from agent.progress import make_progress
from agent.search_models import Models
from search.errors import CheckpointError, NotFoundError
from store.database import read_store
from store.evaluations import Measured, measured_policies


@dataclass(frozen=True, slots=True)
class _Row:
    version: str
    found: Compression
    measured: Measured | None
    """Its greedy answers, where the store has them."""


def run(config: Config, file: str, all_versions: bool, as_json: bool) -> None:
    documents = read_corpus(file)
    known = _known(config) if all_versions else []
    progress = make_progress(quiet=as_json)
    rows: list[_Row] = []
    try:
        # Hosts that read what is known, or else the models that would be asked.
        opened = opened_over(config, {"policy": known[0][0]}) if known else open_models(config)
        with opened as models:
            for ref, measured in known or [(models.policy, None)]:
                own = Models(models.hosts, ModelSet({"policy": ref}), models.task, models.given)
                rows.append(
                    _Row(ref.version, corpus_compression(own, documents, progress), measured)
                )
    finally:
        progress.close()
    related = _related(rows)
    if as_json:
        told = None if related is None else dict(zip(("r", "low", "high"), related, strict=True))
        emit({"corpus": file, "policies": [_told(r) for r in rows], "correlation": told})
        return
    _print(rows, related)


def _known(config: Config) -> list[tuple[ModelRef, Measured | None]]:
    """The store's policies of the task whose accuracy is known and whose weights are there. Raises
    NotFoundError without any."""
    store = read_store(config.store)
    try:
        with store.session() as session:
            measured = measured_policies(session, config.task)
    finally:
        store.close()
    found: list[tuple[ModelRef, Measured | None]] = []
    for one in measured:
        try:
            found.append((verify_checkpoint(Path(one.path)).ref("policy"), one))
        except CheckpointError as error:
            print(f"policy {one.version} is left out: {error.message}", file=sys.stderr)
    if not found:
        raise NotFoundError(
            f"the store {config.shown_store} has no policy of task {config.task!r} that was "
            "measured on held-out problems and has its weights",
            "name the --store of a run with rounds and its --task, or leave --versions out",
        )
    return found


def _related(rows: Sequence[_Row]) -> tuple[float, float, float] | None:
    """Pearson's r of bits per character and accuracy, with its interval."""
    both = [(r.found.bits_per_character, r.measured) for r in rows if r.measured]
    return correlation([bits for bits, _ in both], [m.num_correct / m.n for _, m in both])


def _told(row: _Row) -> dict[str, Any]:
    measured = row.measured
    accuracy = None if measured is None else {"correct": measured.num_correct, "n": measured.n}
    return {"policy": row.version, "accuracy": accuracy} | row.found.as_dict()


def _print(rows: Sequence[_Row], related: tuple[float, float, float] | None) -> None:
    found = rows[0].found
    print(
        f"{found.num_documents:,} documents, {found.num_characters:,} characters, "
        f"{found.num_tokens:,} tokens; windows of {found.window:,} by {found.stride:,}",
        file=sys.stderr,
    )
    if not found.is_comparable:
        why = (
            f"the policy's context is {found.window:,}"
            if found.window < WINDOW
            else f"the corpus is shorter than one window of {WINDOW:,}"
        )
        print(f"not to be compared with published figures: {why}", file=sys.stderr)
    table(
        [
            {
                "policy": row.version,
                "bits per character": f"{row.found.bits_per_character:.4f}",
                "greedy [95 %]": _accuracy(row.measured),
            }
            for row in rows
        ]
    )
    if related is not None:
        r, low, high = related
        print(
            f"correlation with accuracy: {r:+.2f} [{low:+.2f}, {high:+.2f}], n = {len(rows)} "
            "policies of one store, which are not independent"
        )
    elif len(rows) > 1:
        print(f"correlation with accuracy: none of fewer than {FEWEST} policies that differ")


def _accuracy(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    return share(measured.num_correct, measured.n, *wilson(measured.num_correct, measured.n))
