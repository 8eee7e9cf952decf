"""What a rule of trust is worth on a real run, by hidden answers, and with evidence left out.

    python -m scripts.bench.trusted --data DATA --work DIR     # those of scripts.bench.real_rounds
    python -m scripts.bench.trusted --data DATA --work DIR --store FILE --rounds 1 2 --json out.json

For each round of the run's store the rule is fitted to the labelled problems alone, as the product
does it, and asked of the problems whose answers were taken away. An arm is a set of numbers that
speak for an answer: all, without the task's doubts, doubts alone. Of each: how well it ranks (AUC),
and for several aims of precision whether the labelled problems show it, how many of the unseen
answers it keeps and how many of these are right. The least step's score is not among the numbers:
it takes the models.

Then which of a search's texts an outcome score would choose, by the sum over an answer's texts and
by the best one: the critic's, and one that weighs the doubts with it, fitted to the texts of the
labelled problems.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from agent.rounds.context import judged
from agent.tasks.jsonl import Files, Jsonl
from critics.calibration import auc
from critics.trust import fitted, tried
from scripts.bench.real import World
from scripts.bench.real_rounds import Deal, key_of
from scripts.bench.report import Row, missing, repeats, share, show, write
from search.candidates import SameAnswer, grouped
from store.database import open_store
from store.selection import Find, evidence_of, read_finds
from store.states import PROBE

TOP = (0.1, 0.2, 0.3)
"""Shares of the unseen answers."""
AIMS = (0.7, 0.75, 0.8, 0.85, 0.9)
CERTAINTY = 0.9
ARMS = ("all", "without_doubts", "doubts_alone")


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer that the searches of one problem support best."""

    is_probe: bool
    is_right: bool
    numbers: tuple[float, ...]
    doubts: tuple[float, ...]

    def of(self, arm: str) -> tuple[float, ...]:
        if arm == "doubts_alone":
            return self.doubts
        return self.numbers + (self.doubts if arm == "all" else ())


@dataclass(frozen=True, slots=True)
class Text:
    """A finished text of a search that the tool does not refute."""

    answer: str
    is_right: bool
    is_chosen: bool
    odds: float
    """Log-odds of its outcome score."""
    doubts: tuple[float, ...]

    def numbers(self, has_doubts: bool) -> tuple[float, ...]:
        return (self.odds, *self.doubts) if has_doubts else (self.odds,)


@dataclass(frozen=True, slots=True)
class Searched:
    is_probe: bool
    texts: tuple[Text, ...]


def finds_of(store: str, task: Jsonl, number: int, weights: Sequence[float]) -> list[Find]:
    """A round's finished texts, with the outcome scores that the critic alone would have given:
    `weights` are those of the doubts in its calibration."""
    with open_store(store).session() as session:
        finds = read_finds(session, number)
    return [_alone(find, task, weights) for find in finds]


def _alone(find: Find, task: Jsonl, weights: Sequence[float]) -> Find:
    if find.outcome is None or not weights:
        return find
    doubts = task.doubts(find.problem, find.steps)
    odds = log_odds(find.outcome) - sum(w * d for w, d in zip(weights, doubts, strict=True))
    return replace(find, outcome=1 / (1 + math.exp(-odds)))


def truth_of(task: Jsonl) -> dict[str, str | None]:
    """The answers that were taken away, by question."""
    return {key_of({"question": row.text}): row.answer for row in task.rows}


def searched(finds: Sequence[Find], task: Jsonl) -> list[Searched]:
    """A round's searches of problems whose answers are known to us, with their texts."""
    truth = truth_of(task)
    groups: dict[int, list[Find]] = {}
    for find in finds:
        groups.setdefault(find.search_id, []).append(find)
    found = []
    for group in groups.values():
        known = group[0].reference or truth.get(key_of({"question": group[0].problem}))
        if known is None:
            continue
        texts = tuple(
            Text(
                find.answer,
                bool(judged(task, find.answer, known)),
                find.is_chosen,
                log_odds(find.outcome),
                tuple(task.doubts(find.problem, find.steps)),
            )
            for find in group
            if find.answer is not None and find.outcome is not None and find.is_sound is not False
        )
        found.append(Searched(group[0].origin == PROBE, texts))
    return found


def log_odds(p: float) -> float:
    p = min(max(p, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))


def choices(number: int, found: Sequence[Searched], same: SameAnswer) -> Iterator[Row]:
    """How often the unseen problems' searches end right, by what chooses among their texts."""
    known = [text for s in found if s.is_probe for text in s.texts]
    unseen = [s for s in found if not s.is_probe]
    labels = np.asarray([text.is_right for text in known], float)
    if not known or not unseen or labels.min() == labels.max():
        yield missing(f"chosen_{number}", "no labelled problems with right and wrong texts")
        return
    num = len(unseen)
    covered = sum(any(t.is_right for t in s.texts) for s in unseen)
    yield share(f"chosen_coverage_{number}", covered, num, "some text is right")
    own = sum(any(t.is_right and t.is_chosen for t in s.texts) for s in unseen)
    yield share(f"chosen_search_{number}", own, num, "the search's own answer")
    for arm, has_doubts in (("outcome", False), ("with_doubts", True)):
        trust = fitted([text.numbers(has_doubts) for text in known], labels, 0.0)
        for name, total in (("sum", sum), ("best", max)):
            right = 0
            for search in unseen:
                groups: dict[int, list[tuple[float, bool]]] = {}
                of = grouped([text.answer for text in search.texts], same)
                for text, group in zip(search.texts, of, strict=True):
                    chance = trust.probability(text.numbers(has_doubts))
                    groups.setdefault(group, []).append((chance, text.is_right))
                if groups:
                    best = max(groups.values(), key=lambda g: total(c for c, _ in g))
                    right += best[0][1]
            why = f"fitted to {len(known)} labelled texts"
            yield share(f"chosen_{arm}_{name}_{number}", right, num, why)


def answered(finds: Sequence[Find], task: Jsonl) -> list[Answered]:
    """Of a round's searches, those whose answers are known to us."""
    truth = truth_of(task)
    by_text = {find.id: find for find in finds}
    found = []
    for evidence in evidence_of(finds, task.same_answer).values():
        text = by_text[evidence.text]
        known = truth.get(key_of({"question": text.problem}))
        is_right = evidence.is_right
        if is_right is None and known is not None:
            is_right = judged(task, evidence.answer, known)
        if is_right is None or evidence.answer is None:
            continue
        doubts = task.doubts(text.problem, text.steps)
        found.append(
            Answered(text.origin == PROBE, bool(is_right), evidence.numbers(), tuple(doubts))
        )
    return found


def rows_of(number: int, found: Sequence[Answered]) -> Iterator[Row]:
    probes = [a for a in found if a.is_probe]
    unseen = [a for a in found if not a.is_probe]
    for name, part in (("labelled", probes), ("unseen", unseen)):
        yield share(f"right_{name}_{number}", sum(a.is_right for a in part), len(part), "answers")
    if not probes or not unseen:
        yield missing(f"rule_{number}", "no labelled problems were searched")
        return
    labels = [a.is_right for a in probes]
    for arm in ARMS:
        evidence = [a.of(arm) for a in probes]
        trust = fitted(evidence, np.asarray(labels, float), 0.0)
        chances = [trust.probability(a.of(arm)) for a in unseen]
        ranked = auc(chances, [a.is_right for a in unseen])
        shown = tried(evidence, labels, 0.0, CERTAINTY)
        there = "-" if shown.auc is None else f"{shown.auc:.3f}"
        why = f"fitted to {len(probes)} labelled problems, there cross-fitted {there}"
        if ranked is None:
            yield missing(f"auc_{arm}_{number}", "unseen answers are all right, or all wrong")
        else:
            yield repeats(f"auc_{arm}_{number}", [ranked], "AUC of unseen answers", why)
        best = sorted(zip(chances, unseen, strict=True), key=lambda pair: -pair[0])
        for top_share in TOP:
            top = [a.is_right for _, a in best[: int(top_share * len(best) + 0.5)]]
            yield share(
                f"top_{top_share:g}_{arm}_{number}", sum(top), len(top), "likeliest of unseen"
            )
        for aim in AIMS:
            yield _kept(f"{arm}_{aim:g}_{number}", arm, aim, probes, unseen)


def _kept(
    name: str, arm: str, aim: float, probes: Sequence[Answered], unseen: Sequence[Answered]
) -> Row:
    trial = tried([a.of(arm) for a in probes], [a.is_right for a in probes], aim, CERTAINTY)
    counts = (
        f"{trial.num_trusted_right} of {trial.num_trusted} labelled, at least {trial.bound:.2f}"
    )
    if trial.trust is None:
        return missing(f"kept_{name}", f"not shown: {counts}")
    kept = [a for a in unseen if trial.trust.trusts(a.of(arm))]
    num_right = sum(a.is_right for a in kept)
    if not kept:
        return missing(f"kept_{name}", f"shown ({counts}), and nothing was above it")
    why = f"{len(kept)} of {len(unseen)} kept; {counts}"
    return share(f"kept_{name}", num_right, len(kept), why, kept=len(kept) / len(unseen))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--store", type=Path, help="store (DIR/rounds-0/store.db)")
    parser.add_argument("--rounds", type=int, nargs="+", default=[1])
    parser.add_argument("--labelled-share", type=float, help="of a DIR that does not say it")
    parser.add_argument(
        "--doubts",
        type=float,
        nargs="+",
        default=[],
        metavar="WEIGHT",
        help="of the doubts in the run's outcome critic (calibration.doubts in its ratchet.json); "
        "none for runs of versions before 0.15",
    )
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    file = given.store or given.work / "rounds-0" / "store.db"
    if not file.is_file():
        parser.error(f"{file} is not there: python -m scripts.bench.real_rounds --arm rounds")
    world = World(given.data, given.work, False, None)
    world.rows = world.work / "train.jsonl"
    task = Jsonl(Files(str(Deal(world, given.labelled_share).truth)))
    store = f"sqlite:///{file}"
    rows: list[Row] = []
    for number in given.rounds:
        finds = finds_of(store, task, number, given.doubts)
        rows += rows_of(number, answered(finds, task))
        rows += choices(number, searched(finds, task), task.same_answer)
    for row in rows:
        show(row)
    write(given.json, "trusted", {"aims": AIMS, "certainty": CERTAINTY}, [], rows)


if __name__ == "__main__":
    main()
