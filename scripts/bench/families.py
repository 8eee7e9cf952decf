"""Llama and Megalodon side by side: equal parameters, equal data, the same steps.

    python -m scripts.bench.families
    python -m scripts.bench.families --seeds 3 --steps 1200 --json families.json

Each is taught the demonstrations of `stories` from nothing. Then: the loss on held-out worked
answers, greedy accuracy, the acceptance of a drafter of either family for the Llama policy (the
lower half of its own policy each, taught the Llama policy's distribution on the same texts), and of
the recurrent one the bytes of its state and the CPU seconds of a token after 1,024 to 65,536
others.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint
from agent.checkpoints.weights import load_model
from agent.config.settings import Config, PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.answering import Plan, evaluate, sample_rollouts
from agent.networks.megalodon import MegalodonDecoder
from agent.prompts import Prompts
from agent.tasks.registry import open_task
from agent.training.distillation import expected_acceptance
from agent.training.drafter import distil
from agent.training.examples import Example
from agent.training.methods.sft import mean_loss
from agent.training.optimizer import TrainingSettings
from agent.training.rehearsal import demonstration_example
from scripts.bench.report import Row, repeats, share, show, write
from scripts.build_embedded import evaluator
from scripts.embedded_policy import RECIPES, trained_policy

RECIPE_OF = {"llama": "stories", "megalodon": "megalodon"}
LENGTHS = (1_024, 4_096, 16_384, 65_536)
NUM_ASKED = 600


def taught(seed: int, steps: int | None, folder: Path) -> dict[str, Checkpoint]:
    """A policy of each family."""
    found = {}
    for family, name in RECIPE_OF.items():
        recipe = dict(RECIPES[name]) | ({"steps": steps} if steps else {})
        task = open_task(Config(task="stories"))
        start = time.process_time()
        found[family] = trained_policy(task, recipe, seed, folder / family, lambda text: None)
        spent = time.process_time() - start
        print(
            f"{family}: {found[family].num_parameters:,} parameters, {spent:.0f} CPU s", flush=True
        )
    return found


def compared(seed: int, steps: int | None, drafter_steps: int) -> dict[str, Any]:
    task = open_task(Config(task="stories"))
    with tempfile.TemporaryDirectory() as scratch:
        policies = taught(seed, steps, Path(scratch))
        models = {family: load_model(policy) for family, policy in policies.items()}
        prompts = Prompts(task, Tokenizer(policies["llama"].path), PromptSettings())
        held_out = [
            demonstration_example(prompts, d.problem.text, d.steps)
            for d in task.worked(NUM_ASKED, seed)
        ]
        found: dict[str, Any] = {"loss": {}, "right": {}, "acceptance": {}}
        for family, model in models.items():
            found["loss"][family] = mean_loss(model, held_out)
            asked = evaluator(task, policies[family])
            told = evaluate(asked, task.held_out(NUM_ASKED, 0), Plan("greedy"))
            found["right"][family] = told.num_correct
        teacher = evaluator(task, policies["llama"])
        groups = sample_rollouts(teacher, task.labelled(600, seed), 4, 1.0, seed)
        rollouts = [r for group in groups for r in group if r.state.options]
        texts = [Example(r.state.tokens, len(r.state.prompt_tokens)) for r in rollouts]
        settings = TrainingSettings(
            num_steps=drafter_steps,
            optimizer="muon",
            learning_rate=1e-3,
            matrix_learning_rate=6e-3,
            max_epochs=20,
        )
        for family, model in models.items():
            drafter = model.first_layers(model.arch.num_layers // 2)
            distil(models["llama"], drafter, texts[400:], settings, seed)
            found["acceptance"][family] = expected_acceptance(models["llama"], drafter, texts[:400])
        recurrent = models["megalodon"]
        assert isinstance(recurrent, MegalodonDecoder)
        found["stream"] = streamed(recurrent) if seed == 0 else {}
    return found


@torch.no_grad()
def streamed(model: MegalodonDecoder) -> dict[int, tuple[int, float]]:
    """By length: bytes of the state, and CPU seconds of a token behind."""
    found: dict[int, tuple[int, float]] = {}
    generator = torch.Generator().manual_seed(0)
    state, done = None, 0
    model.eval()
    for length in LENGTHS:
        while done < length:
            tokens = torch.randint(0, model.arch.vocab_size, (1, 1024), generator=generator)
            _, state = model.stream(tokens, state)
            done += 1024
        assert state is not None
        spent = []
        for _ in range(5):
            own, start = state, time.process_time()
            for token in range(20):
                _, own = model.stream(torch.tensor([[token]]), own)
            spent.append((time.process_time() - start) / 20)
        found[length] = state.num_bytes, median(spent)
    return found


def rows_of(runs: list[dict[str, Any]]) -> Iterator[Row]:
    ratios = [r["loss"]["megalodon"] / r["loss"]["llama"] for r in runs]
    shown = ", ".join(f"{r['loss']['llama']:.4f}" for r in runs)
    yield repeats(
        "loss/megalodon", ratios, "of Llama's", f"Llama: {shown} nats a token", target=1.02
    )
    for family in RECIPE_OF:
        right = sum(r["right"][family] for r in runs)
        yield share(f"greedy/{family}", right, NUM_ASKED * len(runs), "equal parameters and data")
    gaps = [r["acceptance"]["megalodon"] - r["acceptance"]["llama"] for r in runs]
    shown = ", ".join(f"{r['acceptance']['llama']:.3f}" for r in runs)
    yield repeats("acceptance/megalodon", gaps, "less Llama's", f"Llama: {shown}", target=-0.03)
    for length, (size, seconds) in runs[0]["stream"].items():
        yield {
            "name": f"stream/{length:,} tokens",
            "value": 1e3 * seconds,
            "unit": f"CPU ms a token; state of {size:,} bytes",
            "n": 5,
            "baseline": "the same after 1,024",
        }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="of each policy; unset: as its recipe has it")
    parser.add_argument("--drafter-steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = [
        compared(seed, arguments.steps, arguments.drafter_steps) for seed in range(arguments.seeds)
    ]
    rows = list(rows_of(runs))
    for row in rows:
        show(row)
    settings = {"steps": arguments.steps, "drafter_steps": arguments.drafter_steps}
    write(arguments.json, "families", settings, range(arguments.seeds), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
