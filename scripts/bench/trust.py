"""Which answers may a round learn from where no tool checks them, and at what price?

    python -m scripts.bench.trust --quick                  # two minutes
    python -m scripts.bench.trust                          # arms and faults, half an hour
    python -m scripts.bench.trust --only arms --seeds 3 --json trust.json

Each row is a whole first round of the embedded models of `expressions` without its calculator, up
to what is kept; then it trains for one step. What was kept is compared with answers that nobody
saw. Arms: one search a problem; eight wordings; as many views beside; a checker that works steps
out in writing; checker and eight wordings. Faults: a tenth of the probes' answers wrong, too few
probes, probes of one class, a checker that agrees with everything, and none that can be learned.
One thread, in this process.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from sqlalchemy import func, select

from agent.checker import Checker
from agent.checkpoints.model_refs import CHECKER
from agent.config.load import load_config
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.tasks.expressions import Expressions
from critics.working import Question
from scripts.bench.report import Row, missing, repeats, share, show, write
from search.errors import UsageError
from search.score import Finding
from search.state import Problem
from store.schema import SearchRow

SECTIONS = ("arms", "faults")
NO_TOOL: dict[str, Any] = {
    "hosting.hosting": "inline",
    "critics.use_tool": False,
    "critics.num_labelled": 1000,
    "critics.steps": 0,
    "training.num_steps": 1,
    "training.drafter_steps": 0,
    "evaluation.num_problems": 10,
    "evaluation.num_search_problems": 0,
}
WORDED = {"imagination.wordings": 7, "search.simulations": 8, "tokens_per_problem": 200}
CHECKED = {"critics.checker_steps": 800}
ARMS: dict[str, dict[str, Any]] = {
    "one_search": {},
    "wordings": WORDED,
    "wordings_and_views": WORDED | {"voting.wordings": 8},
    "checker": CHECKED,
    "checker_and_wordings": CHECKED | WORDED,
}


class Heard(Silent):
    """Keeps what a round says."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def one_round(flags: dict[str, Any], families: int, seed: int) -> tuple[dict[str, Any], list[str]]:
    """A first round: what it kept and what that cost, and what it said."""
    heard = Heard()
    wordings = flags.get("imagination.wordings", 0)
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "store": f"sqlite:///{folder}/store.db",
            "checkpoints": f"{folder}/checkpoints",
            "problems_per_round": families * (1 + wordings),
            "seed": seed,
        }
        started = time.process_time()
        with Improver(load_config(NO_TOOL | flags | own)[0], heard).started() as improver:
            outcome = improver.run_round()
            ref = improver.models.get(CHECKER)
            with improver.store.session() as session:
                tokens = session.scalar(select(func.sum(SearchRow.num_tokens))) or 0
        spent = time.process_time() - started
    found = dict(outcome.selection)
    tally = {
        name: sum(rung.get(name, 0) for rung in found.get("rungs", {}).values())
        for name in ("searches", "kept", "known", "right")
    }
    tokens += found.get("views", {}).get("tokens", 0)
    report = ref.header.report if ref else {}
    return found | tally | {"tokens": tokens, "cpu_s": spent, "checker": report}, heard.said


def rows_of(name: str, rounds: Sequence[dict[str, Any]]) -> Iterator[Row]:
    searches = sum(r["searches"] for r in rounds)
    kept = sum(r["kept"] for r in rounds)
    yield share(f"yield_{name}", kept, searches, "searches of the round")
    yield precision(name, sum(r["right"] for r in rounds), kept)
    probes = sum(r["trust"]["labelled"] for r in rounds)
    yield share(f"probes_right_{name}", sum(r["trust"]["right"] for r in rounds), probes, "probes")
    price = [r["tokens"] / r["searches"] for r in rounds]
    yield repeats(f"tokens_{name}", price, "tokens", "read by policies, a search")
    yield repeats(f"cpu_s_{name}", [r["cpu_s"] for r in rounds], "s", "of a round")
    for key in ("auc", "refuted_right", "refuted_wrong", "unread_right", "unread_wrong"):
        told = [r["checker"][key] for r in rounds if r["checker"].get(key) is not None]
        if told:
            yield repeats(f"checker_{key}_{name}", told, "share", "labelled texts")


def precision(name: str, right: int, kept: int) -> Row:
    if not kept:
        return missing(f"precision_{name}", "nothing was kept")
    return share(f"precision_{name}", right, kept, "what was kept")


def arms(families: int, seeds: Sequence[int]) -> Iterator[Row]:
    for name, flags in ARMS.items():
        yield from rows_of(name, [one_round(flags, families, seed)[0] for seed in seeds])


# --- faults ---


def mislabelled(problem: Problem) -> Problem:
    """One labelled problem of ten with another answer."""
    is_hit = random.Random(problem.id).random() < 0.1 and problem.answer is not None
    return replace(problem, answer=str(int(problem.answer or 0) + 10)) if is_hit else problem


@contextmanager
def planted() -> Iterator[None]:
    honest = Expressions.labelled

    def labelled(task: Expressions, num: int, seed: int) -> list[Problem]:
        return [mislabelled(p) for p in honest(task, num, seed)]

    with mock.patch.object(Expressions, "labelled", labelled):
        yield


@contextmanager
def easy_only() -> Iterator[None]:
    """Probes that are all answered right."""
    honest = Expressions.labelled

    def labelled(task: Expressions, num: int, seed: int) -> list[Problem]:
        return [p for p in honest(task, 4 * num, seed) if p.difficulty == 3][:num]

    with mock.patch.object(Expressions, "labelled", labelled):
        yield


@contextmanager
def agreeing() -> Iterator[None]:
    """A checker that finds nothing wrong."""

    def finding(checker: Checker, questions: Sequence[Question] | None) -> Finding:
        return Finding(None, "agreed")

    with mock.patch.object(Checker, "finding", finding):
        yield


@contextmanager
def as_it_is() -> Iterator[None]:
    yield


FAULTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "planted_labels": (planted, CHECKED),
    "planted_labels_without_checker": (planted, WORDED),
    "probes_of_one_class": (easy_only, {}),
    "too_few_probes": (as_it_is, {"selection.probes": 12}),
    "checker_agrees_with_all": (agreeing, CHECKED),
    "nothing_to_learn_from": (as_it_is, CHECKED | {"critics.num_labelled": 2}),
    "one_token_texts": (as_it_is, {"hosting.text_tokens": 1, "hosting.option_tokens": 1}),
}


def faults(families: int, seed: int) -> Iterator[Row]:
    for name, (fault, flags) in FAULTS.items():
        try:
            with fault():
                found, said = one_round(flags, families, seed)
        except UsageError as error:
            yield missing(f"kept_{name}", f"refused before a model loads: {error.message}")
            continue
        kept, searches = found["kept"], found["searches"]
        yield share(f"kept_{name}", kept, searches, "searches of the round")
        yield precision(name, found["right"], kept)
        for line in said:
            print(f"    {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by commas")
    parser.add_argument("--problems", type=int, default=300, help="of a round, before rewording")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="true but smaller")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    given = parser.parse_args()
    chosen = given.only.split(",")
    if unknown := set(chosen) - set(SECTIONS):
        parser.error(f"no section {sorted(unknown)[0]!r}: use {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    num, seeds = (40, [0]) if given.quick else (given.problems, list(range(given.seeds)))
    rows: list[Row] = []
    work = {"arms": lambda: arms(num, seeds), "faults": lambda: faults(num, 0)}
    for section in chosen:
        for row in work[section]():
            rows.append(row)
            show(row)
            write(given.json, "trust", {"problems": num, "sections": chosen}, seeds, rows)


if __name__ == "__main__":
    main()
