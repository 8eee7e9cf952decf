"""SFT, DPO, HyPO, TR-DPO, DR-PO and tree-pg side by side, from one round's stored trajectories.

    python -m scripts.bench.methods --run ratchet-runs/bench/expressions-shipped-0-loop
    python -m scripts.bench.methods --run DIR --only sft --only dpo --json methods.json

DIR is a run that scripts.bench.learning made. Each method starts from the policy that the round
began with, reads the round's frozen dataset, and is evaluated greedily on the same held-out
problems, which no run learned from. Nothing is written into the run's store but evaluations. About
three minutes a method and run on one idle core.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select

from agent.checkpoints.custody import stored_refs
from agent.config.load import load_config
from agent.evaluation.answering import Plan, evaluate
from agent.evaluation.compression import bits_per_character, texts_that_fit
from agent.progress import Silent
from agent.rounds.run import Improver
from agent.rounds.training_stage import TrainingStage
from agent.training.job import Place
from agent.training.methods.registry import policy_job
from scripts.bench.learning import HELD_OUT_SEED, removed
from scripts.bench.report import repeats, share, show, write
from store.schema import Round

# A fifth of the others' rates, where nothing is replayed beside the rewards.
FIFTH = {"training.learning_rate": 2e-4, "training.matrix_learning_rate": 1.2e-3}
WIDE = {"training.clip_below": 0.8, "training.clip_above": 4.0}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"training.method": "sft"},
    "dpo": {"training.method": "dpo"},
    "dpo-weight-1": {"training.method": "dpo", "training.sft_weight": 1.0},
    "hypo": {"training.method": "dpo", "training.clip_reference": True},
    "hypo-weight-1": {
        "training.method": "dpo",
        "training.clip_reference": True,
        "training.sft_weight": 1.0,
    },
    "tr-dpo-soft": {"training.method": "tr-dpo", "training.reference_update": "soft"},
    "tr-dpo-hard": {"training.method": "tr-dpo", "training.reference_update": "hard"},
    "tr-dpo-soft-weight-1": {
        "training.method": "tr-dpo",
        "training.reference_update": "soft",
        "training.sft_weight": 1.0,
    },
    "tr-dpo-hard-weight-1": {
        "training.method": "tr-dpo",
        "training.reference_update": "hard",
        "training.sft_weight": 1.0,
    },
    "dr-po": {
        "training.method": "dr-po",
        "training.num_steps": 150,
    }
    | FIFTH,
    "dr-po-disputed": {
        "training.method": "dr-po",
        "training.num_steps": 150,
        "training.disputed_states": True,
    }
    | FIFTH,
    "tree-pg": {"training.method": "tree-pg", "training.sft_weight": 0.0} | FIFTH,
    "tree-pg-wide": {"training.method": "tree-pg", "training.sft_weight": 0.0} | WIDE | FIFTH,
    "tree-pg-drawn": {
        "training.method": "tree-pg",
        "training.sft_weight": 0.0,
        "training.count_steps_alike": False,
    }
    | FIFTH,
    "tree-pg-texts": {"training.method": "tree-pg"},
}


def trained(folder: Path, name: str, steps: int) -> dict[str, Any]:
    """One method on round 1 of a run; accuracy before and after, and what it cost."""
    made = json.loads((folder / "run.json").read_text())
    flags: dict[str, Any] = {
        "hosting.hosting": "inline",
        "store": f"sqlite:///{folder}/store.db",
        "seed": made["seed"],
        "checkpoints": f"{folder}/checkpoints",
        "evaluation.seed": HELD_OUT_SEED,
        "training.num_steps": steps,
        "training.use_labelled": False,
    } | METHODS[name]
    config, _ = load_config(flags)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Improver(config, Silent()).started() as improver,
    ):
        context = improver.context()
        with improver.store.session() as session:
            round_id = session.scalars(select(Round.id).where(Round.number == 1)).one()
            versions = session.get_one(Round, round_id).models
        stage = TrainingStage(context, stored_refs(improver.store, versions), 1)
        started = time.monotonic()
        result = policy_job(stage.lesson(stage.kept(round_id), [])).run(Place(scratch))
        seconds = time.monotonic() - started
        problems = improver.inputs.task.held_out(config.num_held_out, HELD_OUT_SEED)
        refs = dict(stage.refs)
        before = evaluate(context.models_for(refs), problems, Plan("greedy"))
        refs["policy"] = result.ref()
        after = evaluate(context.models_for(refs), problems, Plan("greedy"))
        models = context.models_for(refs)
        bits = bits_per_character(models, texts_that_fit(models, config.evaluation.seed))
    return {
        "name": name,
        "before": before.num_correct,
        "after": after.num_correct,
        "n": after.n,
        "seconds": seconds,
        "bits": bits,
        "report": result.report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, action="append", required=True, metavar="DIR")
    parser.add_argument("--only", action="append", choices=sorted(METHODS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in arguments.only or METHODS:
        found = [trained(folder.resolve(), name, arguments.steps) for folder in arguments.run]
        n = sum(f["n"] for f in found)
        if not rows:
            rows.append(share("greedy_before", sum(f["before"] for f in found), n, "the base"))
        rows.append(share(f"greedy_{name}", sum(f["after"] for f in found), n, "greedy_before"))
        gone = [removed(f["before"] / f["n"], f["after"] / f["n"]) for f in found]
        rows.append(repeats(f"errors_removed_{name}", gone, "share", "the base"))
        rows.append(repeats(f"bits_{name}", [f["bits"] for f in found], "bits/character", "-"))
        rows.append(repeats(f"seconds_{name}", [f["seconds"] for f in found], "s", "training"))
        for row in rows[-4:] if len(rows) > 5 else rows:
            show(row)
        print({k: v for k, v in found[0]["report"].items() if k != "method"}, flush=True)
    seeds = list(range(len(arguments.run)))
    write(arguments.json, "methods", {"steps": arguments.steps, "methods": METHODS}, seeds, rows)


if __name__ == "__main__":
    main()
