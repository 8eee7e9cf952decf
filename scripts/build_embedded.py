"""Build the models of a task from a seed: tokenizer, policy, drafter and three critics.

    python -m scripts.build_embedded expressions
    python -m scripts.build_embedded stories --steps 3000 --out bundles
    python -m scripts.build_embedded expressions --policy DIR   # the others for DIR
    python -m scripts.build_embedded game24 --out bundles
    python -m scripts.build_embedded ledger                     # a policy alone, 40 minutes
    python -m scripts.build_embedded languages --out bundles    # a policy alone, three languages
    python -m scripts.build_embedded megalodon --out bundles    # a policy alone, another family
    python -m scripts.build_embedded pictures                   # a policy alone, 15 minutes
    python -m scripts.build_embedded deep --out bundles

`deep` is a policy of 12 layers for the engine's benchmark, with a drafter of two and no critics
(half an hour).

The policy learns from generated demonstrations only; the drafter is its first half, distilled on
the policy's own texts; the critics learn from texts that the policy samples on labelled problems.
Weights are stored in bfloat16. The same machine, seed and thread count give the same files.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.model_refs import CRITIC_ROLES, ModelSet
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.load import load_config
from agent.config.settings import CriticSettings
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.answering import Plan, evaluate, sample_rollouts
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import Speculation
from agent.networks.language_model import LanguageModel
from agent.rounds.label_sampling import LabelSampling
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from agent.training.critic_job import measured_critic, trained_critic
from agent.training.distillation import expected_acceptance
from agent.training.drafter import cut_drafter
from agent.training.examples import Example
from agent.training.labelling import Labelled
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import TrainingSettings
from scripts.embedded_pictures import pictured_policy
from scripts.embedded_policy import RECIPES, tasks_of, trained_policy
from search.settings import SearchSettings


class Clock:
    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)


def build(name: str, recipe: dict[str, Any], seed: int, out: Path, kept: Path | None) -> None:
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        pictures = {"hosting.pictures": str(work / "pictures")}
        task = open_task(load_config({"task": recipe.get("task", name)} | pictures)[0])
        if kept:
            policy = verify_checkpoint(kept)
        elif "tower" in recipe:
            policy = pictured_policy(task, recipe, seed, work, clock.say)
        else:
            policy = trained_policy(task, recipe, seed, work, clock.say)
        tokenizer = Tokenizer(policy.path)
        decoder = load_model(policy)  # as rounded to bfloat16: what the others start from
        models = evaluator(task, policy, pictures["hosting.pictures"])
        for one in tasks_of(task, recipe):
            asked = evaluator(one, policy, pictures["hosting.pictures"])
            report = evaluate(asked, one.held_out(recipe.get("asked", 600), 0), Plan("greedy"))
            clock.say(f"{one.name}, greedy on held-out: {report.num_correct}/{report.n}")
        made = {} if kept else {"policy": policy}
        made |= build_others(task, tokenizer, decoder, policy, models, recipe, seed, work, clock)
        for role, checkpoint in made.items():
            target = out / name / role
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(checkpoint.path, target)
            clock.say(f"{role}: {checkpoint.version}, {checkpoint.num_bytes:,} bytes -> {target}")


def evaluator(task: Task, policy: Checkpoint, pictures: str = "") -> Models:
    hosts = InlineHosts(HostSettings(threads=torch.get_num_threads(), pictures=pictures))
    given = ModelSettings(SearchSettings(), {}, speculation=Speculation("never"))
    return Models(hosts, ModelSet({"policy": policy.ref("policy")}), task, given)


def build_others(
    task: Task,
    tokenizer: Tokenizer,
    policy: LanguageModel,
    checkpoint: Checkpoint,
    models: Models,
    recipe: dict[str, Any],
    seed: int,
    work: Path,
    clock: Clock,
) -> dict[str, Checkpoint]:
    problems = task.labelled(recipe.get("labelled", 0), seed)
    settings = TrainingSettings(
        num_steps=400,
        batch_size=48,
        optimizer="muon",
        learning_rate=1e-3,
        matrix_learning_rate=6e-3,
        position_span=recipe.get("span", 0),
        max_epochs=8,
    )
    made: dict[str, Checkpoint] = {}
    if recipe.get("critics", True):
        models.use_tool = bool(task.tool)
        labelled = LabelSampling(models, task, problems, seed).labelled(8, 3, 6)
        clock.say(f"{labelled.num_texts} sampled texts, {len(labelled.process.train)} steps judged")
        made = taught_critics(policy, checkpoint, labelled, settings, seed, work, clock.say)
    if not recipe.get("drafter", True):
        return made
    groups = sample_rollouts(models, problems, 8, 1.0, seed)
    rollouts = [r for group in groups for r in group if r.state.options]
    texts = [Example(r.state.tokens, len(r.state.prompt_tokens)) for r in rollouts]
    drafter = cut_drafter(policy, recipe.get("drafter_share", 0.5))
    distil = settings.model_copy(
        update={"num_steps": recipe.get("drafter_steps", 600), "max_epochs": 20}
    )
    train_on_texts(drafter, texts[500:], distil, seed)
    report = {"acceptance": expected_acceptance(policy, drafter, texts[:500])}
    made["drafter"] = publish(
        drafter, checkpoint, work, "drafter", {"report": report}, torch.bfloat16
    )
    clock.say(f"drafter: acceptance {report['acceptance']:.3f}")
    return made


def taught_critics(
    policy: LanguageModel,
    checkpoint: Checkpoint,
    labelled: Labelled,
    settings: TrainingSettings,
    seed: int,
    work: Path,
    say: Callable[[str], None],
) -> dict[str, Checkpoint]:
    """The three critics, each begun from the policy; rates are those of one with a scalar head."""
    made: dict[str, Checkpoint] = {}
    for role in CRITIC_ROLES:
        has_head = role == "value"
        critic = policy.as_critic() if has_head else load_model(checkpoint)
        share = 1.0 if has_head else CriticSettings().rate_share
        recipe_of = settings.model_copy(
            update={
                "matrix_learning_rate": share * settings.matrix_learning_rate,
                "learning_rate": share * settings.learning_rate,
                "position_span": settings.position_span if has_head else 0,
            }
        )
        split = labelled.of(role)
        report = trained_critic(critic, split, recipe_of, seed)
        report |= measured_critic(critic, split.held_out)
        made[role] = publish(critic, checkpoint, work, role, {"report": report}, torch.bfloat16)
        shown = {k: v for k, v in report.items() if k != "reliability"}
        say(f"{role}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps of the policy")
    parser.add_argument("--demonstrations", type=int)
    parser.add_argument("--policy", type=Path, help="keep this policy and build the others for it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = dict(RECIPES[arguments.name])
    for key in ("steps", "demonstrations"):
        if getattr(arguments, key):
            recipe[key] = getattr(arguments, key)
    build(arguments.name, recipe, arguments.seed, arguments.out, arguments.policy)


if __name__ == "__main__":
    main()
