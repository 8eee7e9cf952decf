"""Rounds of a taught pretrained model on problems whose answers it does not see, with controls.

    python -m scripts.bench.real --data DATA --work DIR --section base     # fetches and teaches
    python -m scripts.bench.real_rounds --data DATA --work DIR             # some hours
    python -m scripts.bench.real_rounds --data DATA --work DIR --quick     # half an hour
    python -m scripts.bench.real_rounds --data DATA --work DIR --arm demonstrations unfiltered
    python -m scripts.bench.real_rounds --data DATA --work DIR --gguf FILE --rounds 1  # on a GPU

DATA and DIR are those of `scripts.bench.real`. What was taught is the start. Rows of MAWPS, SVAMP
and short GSM8K that it was not taught are dealt, by a seed, to three files: problems to learn from,
whose answers are taken away; labelled ones, from which critics learn and whose fourth tells what
may be trusted; and held-out ones. What a round kept is compared with the answers taken away.

rounds          rounds of the product, calculator and default settings but for sizes
demonstrations  as many steps, on the worked answers that the start was taught with
unfiltered      as many steps, on one sampled text of each problem searched, whatever it says
critics         the search of held-out problems by the models of the last round, with all critics
                and with each one left out

Finished rounds and arms are kept in DIR and not repeated, so the same command goes on after a kill,
and one with more --rounds adds them. One process; --threads gives it more than one torch thread.
"""

import argparse
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from agent.checkpoints.custody import current_models
from agent.config.load import load_config
from agent.config.settings import Config
from agent.evaluation.answering import Plan, evaluate
from agent.evaluation.intervals import paired_difference
from agent.progress import Terminal
from agent.rounds.context import judged
from agent.rounds.run import Improver
from agent.search_models import Models
from agent.tasks.jsonl import Files, Jsonl
from agent.tasks.registry import open_task
from scripts.bench.learning import Run, control, loop
from scripts.bench.real import Line, World, is_short, put
from scripts.bench.report import Row, missing, repeats, share, show, write
from store.database import open_store
from store.schema import DatasetItem, DatasetRow, ProblemRow, Round, TrajectoryRow

SETS = ("mawps", "svamp", "gsm8k")
ARMS = ("rounds", "demonstrations", "unfiltered")
SECTIONS = (*ARMS, "critics")
SEED = 21
DEALT = {"mawps": 710, "svamp": 850, "gsm8k": 60}
"""Labelled problems and problems to learn from, in the same proportion of each set: the promise is
of problems like the labelled."""
HELD_OUT = {"mawps": 340, "svamp": 150, "gsm8k": 60}
LABELLED_SHARE = 0.35
SIZES = {
    "problems_per_round": 320,
    "tokens_per_problem": 150,
    "search.max_tokens": 150,
    "critics.num_labelled": 400,
    "critics.samples": 3,
    "critics.steps": 60,
    "evaluation.num_search_problems": 60,
    "selection.min_precision": 0.8,
    "training.drafter_steps": 0,
}
QUICK = {
    "problems_per_round": 24,
    "tokens_per_problem": 100,
    "search.max_tokens": 100,
    "critics.samples": 2,
    "critics.steps": 4,
    "training.num_steps": 4,
    "evaluation.num_search_problems": 8,
    "selection.min_precision": 0.0,
    "training.drafter_steps": 0,
}


class Deal:
    """The three files of a work folder, and the answers that were taken away."""

    def __init__(self, world: World, labelled_share: float | None = None) -> None:
        """A share other than that of the files that are there is refused; None takes theirs."""
        self.world = world
        note = self._file("deal").with_suffix(".json")
        before = json.loads(note.read_text())["labelled_share"] if note.is_file() else None
        if None not in (before, labelled_share) and before != labelled_share:
            raise SystemExit(
                f"Error: the files of {world.work} were dealt with --labelled-share {before}\n"
                f"Fix: give that share, or another --work folder for {labelled_share}"
            )
        labelled_share = labelled_share or before or LABELLED_SHARE
        note.write_text(json.dumps({"labelled_share": labelled_share}))
        part = 0.1 if world.is_quick else 1.0
        self.unseen = self._file("unseen")
        self.labelled = self._file("labelled")
        self.held_out = self._file("held-out-mixed")
        self.truth = self._file("unseen-answers")
        """The problems to learn from with their answers, which no round is shown."""
        self.set_of: dict[str, str] = {}
        """Question of any dealt row to the set that it is of."""
        files: dict[Path, list[Line]] = {self.unseen: [], self.labelled: [], self.held_out: []}
        taught = {key_of(row) for row in _read(world.rows)}
        for name in SETS:
            fresh, apart = self._rows(name, taught)
            dealt = fresh[: max(8, round(part * DEALT[name]))]
            num = round(labelled_share * len(dealt))
            files[self.labelled] += dealt[:num]
            files[self.unseen] += dealt[num:]
            files[self.held_out] += apart[: max(8, round(part * HELD_OUT[name]))]
            for row in (*fresh, *apart):
                self.set_of[key_of(row)] = name
        if not self.truth.is_file():
            put(self.truth, files[self.unseen])
        files[self.unseen] = [{"question": row["question"]} for row in files[self.unseen]]
        for file, rows in files.items():
            if not file.is_file():
                put(file, rows)

    def _file(self, name: str) -> Path:
        return self.world.work / f"{name}{'-quick' if self.world.is_quick else ''}.jsonl"

    def _rows(self, name: str, taught: set[str]) -> tuple[list[Line], list[Line]]:
        """(rows to learn from, held-out rows) of a set, mixed; none of them was taught, and none is
        in both."""
        rng = random.Random(f"{SEED} {name}")
        if name == "svamp":  # a single file
            rows = _different(self.world.lines("svamp/test"), taught)
            rng.shuffle(rows)
            num = HELD_OUT[name]
            return rows[num:], rows[:num]
        if name == "mawps":
            fresh, apart = self.world.lines("mawps/train"), self.world.lines("mawps/dev")
        else:
            fresh = [r for r in self.world.lines("gsm8k/train") if is_short(r)]
            apart = [r for r in self.world.lines("gsm8k/test") if is_short(r)]
        apart = _different(apart, taught)
        fresh = _different(fresh, taught | {key_of(r) for r in apart})
        rng.shuffle(fresh)
        rng.shuffle(apart)
        return fresh, apart


def key_of(row: Mapping[str, Any]) -> str:
    return " ".join(str(row["question"]).lower().split())


def _different(rows: Sequence[Line], known: set[str]) -> list[Line]:
    """The rows whose questions are not known, each question once, all in one form."""
    asked = [{"question": row.get("question") or row["problem"]} | row for row in rows]
    return list({key_of(row): row for row in asked if key_of(row) not in known}.values())


def _read(file: Path) -> list[Line]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def config_of(world: World, deal: Deal, given: argparse.Namespace) -> Config:
    folder = world.work / f"rounds{'-quick' if world.is_quick else ''}-{given.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    flags: dict[str, Any] = {
        "task": "jsonl",
        "problems": str(deal.unseen),
        "labelled": str(deal.labelled),
        "held_out": str(deal.held_out),
        "policy": str(world.taught),
        "seed": given.seed,
        "hosting.hosting": "inline",
        "hosting.threads": given.threads,
        "store": f"sqlite:///{folder}/store.db",
        "checkpoints": f"{folder}/checkpoints",
        "run": "real",
    }
    flags |= QUICK if world.is_quick else SIZES
    flags |= dict(text.split("=", 1) for text in given.set or [])
    return load_config(flags)[0]


# --- arms ---


def arm_of(world: World, deal: Deal, given: argparse.Namespace, name: str) -> Run | None:
    """The states of an arm, those that were reached before read; None for a control whose rounds
    are not there."""
    config = config_of(world, deal, given)
    folder = Path(config.checkpoints.folder).parent
    done = folder / f"{name}.json"
    states = json.loads(done.read_text())["states"] if done.is_file() else []
    with closing(Terminal()) as progress, Improver(config, progress).started() as improver:
        if name == "rounds":
            for number in range(len(states), given.rounds + 1):
                states = loop(improver, improver.config, number, states)["states"]
                done.write_text(json.dumps({"states": states}))
            return {"states": states}
        if not (folder / "rounds.json").is_file():
            return None
        rounds = json.loads((folder / "rounds.json").read_text())["states"][1 : given.rounds + 1]
        if len(states) != len(rounds) + 1:
            states = control(improver, improver.config, rounds, name, improver)["states"]
            done.write_text(json.dumps({"states": states}))
        return {"states": states}


def critics_left_out(world: World, deal: Deal, given: argparse.Namespace) -> Iterator[Row]:
    """Searches of as many held-out problems as a round searches, by the last round's models."""
    config = config_of(world, deal, given)
    with closing(Terminal()) as progress, Improver(config, progress).started() as improver:
        refs = current_models(improver.store, improver.run_id, print) or improver.models
        settings = improver.config
        problems = improver.inputs.task.held_out(settings.num_held_out, settings.evaluation.seed)
        problems = problems[: settings.evaluation.num_search_problems]
        models = improver.context().models_for(refs)
        for gone in ("", *models.weights):
            weights = dict(models.weights) | ({gone: 0.0} if gone else {})
            own = replace(models.given, weights=weights)
            told = Models(models.hosts, models.models, models.task, own, models.prompts)
            found = evaluate(told, problems, Plan("search"), settings.hosting.cohort)
            name = f"search_without_{gone}" if gone else "search_with_all_critics"
            why = f"not believed: {', '.join(sorted(models.distrusted)) or 'none'}"
            yield share(name, found.num_correct, found.n, why, tokens=found.num_tokens / found.n)


def kept_texts(config: Config, deal: Deal, number: int) -> list[tuple[str, bool | None]]:
    """(set, whether the answer is the one that was taken away) of what a round kept; None for
    problems that imagination made."""
    task = Jsonl(Files(str(deal.truth)))
    truth = {key_of({"question": row.text}): row.answer for row in task.rows}
    store = open_store(config.store)
    with store.session() as session:
        found = session.execute(
            select(ProblemRow.text, TrajectoryRow.answer)
            .join(TrajectoryRow, TrajectoryRow.problem_id == ProblemRow.id)
            .join(DatasetItem, DatasetItem.trajectory_id == TrajectoryRow.id)
            .join(DatasetRow, DatasetRow.id == DatasetItem.dataset_id)
            .join(Round, Round.id == DatasetRow.round_id)
            .where(Round.number == number)
        ).all()
    kept: list[tuple[str, bool | None]] = []
    for text, answer in found:
        key = key_of({"question": text})
        known = truth.get(key)
        is_right = None if known is None else judged(task, answer, known)
        kept.append((deal.set_of[key] if known else "made", is_right))
    return kept


# --- the table ---


def rows_of(world: World, deal: Deal, config: Config, runs: Mapping[str, Run]) -> Iterator[Row]:
    task = open_task(config)
    problems = task.held_out(config.num_held_out, config.evaluation.seed)
    place_of = {p.id: deal.set_of.get(key_of({"question": p.text}), "made") for p in problems}
    first = runs["rounds"]["states"][0] if "rounds" in runs else None
    for name in ARMS:
        if name not in runs:
            yield missing(f"greedy_{name}", "not run")
            continue
        states = runs[name]["states"]
        for number, state in enumerate(states):
            yield from _accuracies(f"{name}@{number}", state, place_of)
        before, after = (first or states[0])["greedy"]["items"], states[-1]["greedy"]["items"]
        gained = sum(after[p] and not before[p] for p in after)
        lost = sum(before[p] and not after[p] for p in after)
        gain, low, high = paired_difference(gained, lost, len(after))
        num_before = sum(before.values())
        yield share(f"greedy_{name}", sum(after.values()), len(after), f"before: {num_before}") | {
            "gain": gain,
            "gain_low": low,
            "gain_high": high,
            "errors_removed": gain / (1 - num_before / len(before)),
        }
    for number, state in enumerate(runs.get("rounds", {"states": []})["states"][1:], 1):
        yield from _round(deal, config, number, state)


def _accuracies(name: str, state: Mapping[str, Any], place_of: Mapping[str, str]) -> Iterator[Row]:
    for mode in ("greedy", "search"):
        found = state.get(mode)
        if not found:
            continue
        items = found["items"]
        num = sum(items.values())
        yield share(f"{mode}_{name}", num, len(items), "held out", tokens=found["tokens"])
        for of in SETS:
            mine = [is_right for p, is_right in items.items() if place_of[p] == of]
            if mine:
                yield share(f"{mode}_{of}_{name}", sum(mine), len(mine), "held out")


def _round(deal: Deal, config: Config, number: int, state: Mapping[str, Any]) -> Iterator[Row]:
    searches = state["num_problems"]
    kept = kept_texts(config, deal, number)
    why = f"verdict {state['verdict']}, p = {state['p']}: {state['reason']}"
    yield share(f"yield_{number}", len(kept), searches, why)
    for of in (*SETS, "all"):
        known = [right for place, right in kept if right is not None and of in (place, "all")]
        name = f"precision_{of}_{number}"
        if known:
            yield share(name, sum(known), len(known), "the answers taken away")
        else:
            yield missing(name, "nothing of it was kept")
    for role, report in state["reports"].items():
        for key in ("auc", "calibration_error"):
            if report.get(key) is not None:
                why = f"{report.get('n', '-')} held-out labels"
                yield repeats(f"{role}_{key}_{number}", [report[key]], "share", why)
    for stage, spent in state["seconds"].items():
        yield repeats(f"seconds_{stage}_{number}", [spent], "s", "one round")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--arm", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--labelled-share",
        type=float,
        help=f"of the problems dealt (as DIR's files were, else {LABELLED_SHARE})",
    )
    parser.add_argument(
        "--gguf",
        type=Path,
        help="first teach the model in this file (SmolLM2, from its package): no network needed",
    )
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="any setting")
    parser.add_argument("--quick", action="store_true", help="true but smaller")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    if given.quick:
        given.rounds = 1
    torch.set_num_threads(given.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    world = World(given.data, given.work, given.quick, None)
    if given.gguf and not (world.work / "taught").exists():
        if not world.taught.exists():
            world.prepare(given.gguf)
            world.teach()
    else:
        world.taught, world.rows = world.work / "taught", world.work / "train.jsonl"
    if not world.taught.exists():
        parser.error(f"{world.taught} is not there: python -m scripts.bench.real --section base")
    deal = Deal(world, given.labelled_share)
    config = config_of(world, deal, given)
    runs: dict[str, Run] = {}
    for name in ARMS:
        if name in given.arm and (run := arm_of(world, deal, given, name)):
            runs[name] = run
    rows = list(rows_of(world, deal, config, runs))
    if "critics" in given.arm:
        rows += critics_left_out(world, deal, given)
    for row in rows:
        show(row)
    sizes = QUICK if given.quick else SIZES
    write(given.json, "real_rounds", {"sizes": sizes, "set": given.set}, [given.seed], rows)


if __name__ == "__main__":
    main()
