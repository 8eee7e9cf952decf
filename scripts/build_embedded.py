"""Build the models of a task from a seed: tokenizer, policy, drafter and three critics.

    python -m scripts.build_embedded expressions
    python -m scripts.build_embedded stories --steps 3000 --out bundles
    python -m scripts.build_embedded expressions --policy DIR   # the others for DIR
    python -m scripts.build_embedded game24 --out bundles
    python -m scripts.build_embedded deep --out bundles

`deep` is a policy of 12 layers for the engine's benchmark, with a drafter of two and no critics
(half an hour).

The policy learns from generated demonstrations only; the drafter is its first half, distilled on
the policy's own texts; the critics learn from texts that the policy samples on labelled problems.
Weights are stored in bfloat16. The same machine, seed and thread count give the same files.
"""

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.settings import Config, CriticSettings, PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.answering import Plan, evaluate, sample_rollouts
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import Speculation
from agent.networks.architecture import Architecture
from agent.networks.language_model import LanguageModel
from agent.networks.registry import build as build_network
from agent.prompts import Prompts
from agent.rounds.label_sampling import LabelSampling
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from agent.training.critic_job import measured_critic, trained_critic
from agent.training.distillation import expected_acceptance
from agent.training.drafter import cut_drafter
from agent.training.examples import Example
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import TrainingSettings
from agent.training.rehearsal import demonstration_example, write_demonstrations
from search.settings import SearchSettings

RECIPES: dict[str, dict[str, Any]] = {
    "expressions": {
        "demonstrations": 40_000,
        "steps": 2000,
        "span": 128,
        "hidden": 96,
        "inner": 256,
        "heads": 3,
        "layers": 4,
        "labelled": 1500,
        "alphabet": "0123456789+-*",
    },
    "stories": {
        "demonstrations": 2_000,
        "steps": 600,
        "span": 0,
        "hidden": 128,
        "inner": 352,
        "heads": 4,
        "layers": 4,
        "labelled": 1500,
        "vocabulary": 384,
    },
    "game24": {
        "demonstrations": 20_000,
        "steps": 1200,
        "span": 0,
        "hidden": 128,
        "inner": 352,
        "heads": 4,
        "layers": 4,
        "labelled": 1262,
        "alphabet": "0123456789+-*/=: _",
    },
    "deep": {
        "task": "expressions",
        "demonstrations": 40_000,
        "steps": 700,
        "span": 128,
        "hidden": 192,
        "inner": 512,
        "heads": 6,
        "layers": 12,
        "labelled": 2000,
        "alphabet": "0123456789+-*",
        "drafter_share": 1 / 6,
        "drafter_steps": 1500,
        "critics": False,
    },
}


def characters_tokenizer(alphabet: str) -> FastTokenizer:
    """One token a character: the newline and those of the alphabet."""
    known = ["<pad>", "</s>", "\n", *alphabet]
    fast = FastTokenizer(models.WordLevel({c: i for i, c in enumerate(known)}, unk_token=None))
    fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    fast.decoder = decoders.Fuse()
    fast.add_special_tokens(["<pad>", "</s>"])
    return fast


def bytes_tokenizer(texts: list[str], size: int) -> FastTokenizer:
    """Byte-level BPE that spells any text; each digit and each newline is a token of its own."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    fast.train_from_iterator(texts, trainer)
    return fast


def empty_checkpoint(path: Path, task: Task, recipe: dict[str, Any], seed: int) -> Checkpoint:
    """config.json, tokenizer and random weights of the policy to be trained."""
    path.mkdir(parents=True)
    demonstrations = task.demonstrations(2000, seed)
    fast = (
        bytes_tokenizer(
            [task.prompt(d.problem.text) + "".join(d.steps) for d in demonstrations],
            recipe["vocabulary"],
        )
        if "vocabulary" in recipe
        else characters_tokenizer(recipe["alphabet"])
    )
    fast.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "</s>",
                "pad_token": "<pad>",
                "model_max_length": 512,
            },
            indent=2,
        )
        + "\n"
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fast.get_vocab_size(),
        "hidden_size": recipe["hidden"],
        "intermediate_size": recipe["inner"],
        "num_hidden_layers": recipe["layers"],
        "num_attention_heads": recipe["heads"],
        "num_key_value_heads": recipe["heads"],
        "head_dim": recipe["hidden"] // recipe["heads"],
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "dtype": "float32",
    }
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    training = {
        "optimizer": "muon",
        "learning_rate": 1e-3,
        "matrix_learning_rate": 6e-3,
        "position_span": 0,
    }
    notes = {"task": task.name, "role": "policy", "training": training}
    (path / "ratchet.json").write_text(json.dumps(notes))
    torch.manual_seed(seed)
    decoder = build_network(Architecture.from_config(config))
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2:
            scale = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, std=scale)
    from safetensors.torch import save_file

    tensors = {k: v.detach().clone() for k, v in decoder.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return verify_checkpoint(path)


class Clock:
    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:6.0f} s  {text}", flush=True)


def build(name: str, recipe: dict[str, Any], seed: int, out: Path, kept: Path | None) -> None:
    clock = Clock()
    task = open_task(Config(task=recipe.get("task", name)))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        policy = (
            verify_checkpoint(kept) if kept else trained_policy(task, recipe, seed, work, clock)
        )
        tokenizer = Tokenizer(policy.path)
        decoder = load_model(policy)  # as rounded to bfloat16: what the others start from
        models = evaluator(task, policy)
        report = evaluate(models, task.held_out(600, 0), Plan("greedy"))
        clock.say(f"greedy on held-out problems: {report.num_correct}/{report.n}")
        made = {} if kept else {"policy": policy}
        made |= build_others(task, tokenizer, decoder, policy, models, recipe, seed, work, clock)
        for role, checkpoint in made.items():
            target = out / name / role
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(checkpoint.path, target)
            clock.say(f"{role}: {checkpoint.version}, {checkpoint.num_bytes:,} bytes -> {target}")


def trained_policy(
    task: Task, recipe: dict[str, Any], seed: int, work: Path, clock: Clock
) -> Checkpoint:
    """A policy from demonstrations alone, in bfloat16."""
    empty = empty_checkpoint(work / "empty", task, recipe, seed)
    tokenizer = Tokenizer(empty.path)
    demonstrations = task.demonstrations(recipe["demonstrations"], seed)
    prompts = Prompts(task, tokenizer, PromptSettings())
    examples = [demonstration_example(prompts, d.problem.text, d.steps) for d in demonstrations]
    clock.say(f"{len(examples)} demonstrations, vocabulary {tokenizer.vocab_size}")
    base = TrainingSettings(
        num_steps=recipe["steps"],
        batch_size=64,
        optimizer="muon",
        learning_rate=3e-3,
        matrix_learning_rate=0.02,
        position_span=recipe["span"],
        max_epochs=100,
    )
    decoder = load_model(empty)

    def show(done: int, total: int, loss: float) -> None:
        if done % 100 == 0:
            clock.say(f"step {done}/{total}, loss {loss:.4f}")

    train_on_texts(decoder, examples, base, seed, show)
    notes: dict[str, Any] = {"seed": seed, "recipe": recipe}
    policy = publish(decoder, empty, work, "policy", notes, torch.bfloat16)
    write_demonstrations(policy.path, demonstrations, seed)
    return policy


def evaluator(task: Task, policy: Checkpoint) -> Models:
    hosts = InlineHosts(HostSettings(threads=torch.get_num_threads()))
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
    problems = task.labelled(recipe["labelled"], seed)
    rate = 6e-3
    settings = TrainingSettings(
        num_steps=400,
        batch_size=48,
        optimizer="muon",
        learning_rate=1e-3,
        matrix_learning_rate=rate,
        position_span=recipe["span"],
        max_epochs=8,
    )
    made: dict[str, Checkpoint] = {}
    if recipe.get("critics", True):
        models.use_tool = bool(task.tool)
        labelled = LabelSampling(models, task, problems, seed).labelled(8, 3, 6)
        clock.say(f"{labelled.num_texts} sampled texts, {len(labelled.process.train)} steps judged")
        for role in ("value", "process", "outcome"):
            has_head = role == "value"
            critic = policy.as_critic() if has_head else load_model(checkpoint)
            share = 1.0 if has_head else CriticSettings().rate_share
            recipe_of = settings.model_copy(
                update={
                    "matrix_learning_rate": share * rate,
                    "learning_rate": share * 1e-3,
                    "position_span": recipe["span"] if has_head else 0,
                }
            )
            split = labelled.of(role)
            report = trained_critic(critic, split, recipe_of, seed)
            report |= measured_critic(critic, split.held_out)
            made[role] = publish(critic, checkpoint, work, role, {"report": report}, torch.bfloat16)
            shown = {k: v for k, v in report.items() if k != "reliability"}
            clock.say(f"{role}: " + ", ".join(f"{k} {v}" for k, v in shown.items()))
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
