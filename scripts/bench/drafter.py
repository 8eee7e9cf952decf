"""How a round's drafter comes to guess what the new policy says: ways to make it, on a past run.

    python -m scripts.bench.learning --arm loop --rounds 2 --seeds 1 --folder runs
    python -m scripts.bench.drafter --store runs/expressions-shipped-0-loop/store.db
    python -m scripts.bench.drafter --store STORE --seeds 3 --steps 60 120 --json drafter.json

For each round that promoted a policy: the drafter before it as it is, and, after so many steps on
the texts that the round kept, one cut from the new policy or gone on from, taught by the texts'
tokens (as before version 0.18) or by the policy's distribution. The acceptance is the expected
share of drafted tokens that the policy keeps, on texts that none of them saw. Nothing is written to
the store or beside it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from sqlalchemy import select

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.config.load import load_config
from agent.networks.language_model import LanguageModel
from agent.training.distillation import expected_acceptance
from agent.training.drafter import cut_drafter, distil
from agent.training.examples import Example
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import drafter_settings, policy_settings
from agent.training.stored_examples import as_examples
from scripts.bench.report import Row, show, write
from store.database import read_store
from store.datasets import dataset_of, read_dataset
from store.schema import CheckpointRow, Round
from store.states import Stage

BEFORE = "the one before, as it is"
WAYS = {
    "cut, the texts' tokens": (False, False),
    "cut, the policy's distribution": (False, True),
    "gone on from, the texts' tokens": (True, False),
    "gone on from, the policy's distribution": (True, True),
}
"""Whether it goes on from the one before, and whether it is taught by the distribution."""
Round_ = tuple[int, Checkpoint, Checkpoint, list[Example]]


def promoted(store_url: str) -> list[Round_]:
    """(number, new policy, drafter before it, texts kept) of each promoted round."""
    found: list[Round_] = []
    store = read_store(store_url)
    with store.session() as session:
        paths = {c.version: c.path for c in session.scalars(select(CheckpointRow))}
        for row in session.scalars(select(Round).where(Round.stage == Stage.PROMOTED)):
            dataset = dataset_of(session, row.id)
            if dataset is None or not row.candidates:
                continue
            policy = verify_checkpoint(Path(paths[row.candidates["policy"]]))
            drafter = verify_checkpoint(Path(paths[row.models["drafter"]]))
            texts = as_examples(read_dataset(session, dataset.id))
            found.append((row.number, policy, drafter, texts))
    store.close()
    return found


def made(
    way: str,
    policy: LanguageModel,
    before: Checkpoint,
    texts: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
) -> LanguageModel:
    goes_on, is_distilled = WAYS[way]
    drafter = load_model(before) if goes_on else cut_drafter(policy)
    if is_distilled:
        distil(policy, drafter, texts, settings, seed)
    else:
        train_on_texts(drafter, texts, settings, seed)
    return drafter


def measured(round_: Round_, steps: int, num_seeds: int, config: Any) -> list[Row]:
    number, policy, before, examples = round_
    tenth = max(1, len(examples) // 10)
    held_out, texts = examples[:tenth], examples[tenth:]
    model = load_model(policy)
    own = policy_settings(config, policy)
    settings = drafter_settings(config.model_copy(update={"drafter_steps": steps}), own, policy)
    rows = [
        {
            "name": f"round {number}: {BEFORE}",
            "value": expected_acceptance(model, load_model(before), held_out),
            "unit": "acceptance",
            "n": len(held_out),
            "baseline": next(iter(WAYS)),
        }
    ]
    show(rows[0])
    for way in WAYS:
        found, spent = [], []
        for seed in range(num_seeds):
            start = time.process_time()
            drafter = made(way, model, before, texts, settings, seed)
            spent.append(time.process_time() - start)
            found.append(expected_acceptance(model, drafter, held_out))
        rows.append(
            {
                "name": f"round {number}: {way}, {steps} steps",
                "value": median(found),
                "unit": f"acceptance; {median(spent):.1f} CPU s",
                "low": min(found),
                "high": max(found),
                "n": num_seeds,
                "baseline": next(iter(WAYS)),
                "cpu_s": spent,
            }
        )
        show(rows[-1])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True, help="of a run with a promoted round")
    parser.add_argument("--steps", type=int, nargs="+", default=[120])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rounds = promoted(arguments.store)
    if not rounds:
        print(f"{arguments.store} has no promoted round", file=sys.stderr)
        return 1
    config = load_config({})[0].training
    rows = [
        row
        for one in rounds
        for steps in arguments.steps
        for row in measured(one, steps, arguments.seeds, config)
    ]
    settings = {"store": arguments.store, "steps": arguments.steps}
    write(arguments.json, "drafter", settings, range(arguments.seeds), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
