"""The policies of `build_embedded`: what each is made of, and how it is taught."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.settings import Config, PromptSettings
from agent.engine.tokenizer import Tokenizer
from agent.networks.architecture import Architecture
from agent.networks.language_model import LanguageModel
from agent.networks.registry import build as build_network
from agent.prompts import Prompts
from agent.tasks.ledger import drawn_ledger, entries_of, worked_steps
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from agent.training.examples import Example
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import TrainingSettings
from agent.training.rehearsal import demonstration_example, write_demonstrations

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
    "languages": {
        "task": "stories",
        "tasks": ("stories", "stories-de", "stories-es"),
        "demonstrations": 1_500,
        "steps": 1200,
        "span": 0,
        "hidden": 128,
        "inner": 352,
        "heads": 4,
        "layers": 4,
        "vocabulary": 512,
        "critics": False,
        "drafter": False,
    },
    "megalodon": {
        "task": "stories",
        "family": "megalodon",
        "demonstrations": 2_000,
        "steps": 600,
        "span": 0,
        "hidden": 128,
        "inner": 192,
        "heads": 2,
        "layers": 4,
        "vocabulary": 384,
        "shape": {
            "z_dim": 64,
            "value_dim": 256,
            "cema_ndim": 8,
            "norm_num_groups": 8,
            "chunk_size": 64,
            "swiglu": True,
        },
        "critics": False,
        "drafter": False,
    },
    "ledger": {
        "hidden": 128,
        "inner": 320,
        "heads": 4,
        "kv_heads": 2,
        "layers": 4,
        "positions": 16_384,
        "rope_theta": 500_000.0,
        "alphabet": "0123456789+-=abcdefghijklmnopqrstuvwxyz",
        "demonstrations": 500,
        "asked": 60,
        "stages": (
            # Lines at least and at most, questions a text, texts a batch, steps, matrices' rate.
            (4, 12, 8, 32, 600, 0.02),
            (12, 24, 12, 24, 600, 0.02),
            (24, 80, 12, 8, 400, 0.012),
            (80, 300, 16, 2, 250, 0.008),
            (300, 620, 16, 1, 150, 0.006),
            (300, 620, 16, 1, 300, 0.006),
        ),
        "critics": False,
        "drafter": False,
    },
    "pictures": {
        "tower": 96,
        "tower_inner": 256,
        "tower_layers": 3,
        "tower_heads": 3,
        "patch": 16,
        "pictures": 24_000,
        "column_steps": 1_200,
        "steps": 1_200,
        "demonstrations": 1_500,
        "critics": False,
        "drafter": False,
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
    fast = tokenizer_of(task, recipe, seed)
    config = config_of(recipe, fast.get_vocab_size())
    fast.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": "</s>",
                "pad_token": "<pad>",
                "model_max_length": config["max_position_embeddings"],
            },
            indent=2,
        )
        + "\n"
    )
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
            if "family" in recipe:  # as released
                scale = parameter.shape[1] ** -0.5 * (1 if "embed" in name else 3**-0.5)
            else:
                scale = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
            torch.nn.init.normal_(parameter, std=scale)
    tensors = {k: v.detach().clone() for k, v in decoder.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return verify_checkpoint(path)


def tokenizer_of(task: Task, recipe: dict[str, Any], seed: int) -> FastTokenizer:
    """Of characters, or, with a size of the vocabulary, of what the demonstrations are made of."""
    if "vocabulary" not in recipe:
        return characters_tokenizer(recipe["alphabet"])
    texts = [
        one.prompt(d.problem.text) + "".join(d.steps)
        for one in tasks_of(task, recipe)
        for d in one.demonstrations(2000, seed)
    ]
    return bytes_tokenizer(texts, recipe["vocabulary"])


def config_of(recipe: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The policy's config.json."""
    rope = {"rope_type": "default", "rope_theta": recipe.get("rope_theta", 10_000.0)}
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": recipe["hidden"],
        "intermediate_size": recipe["inner"],
        "num_hidden_layers": recipe["layers"],
        "num_attention_heads": recipe["heads"],
        "num_key_value_heads": recipe.get("kv_heads", recipe["heads"]),
        "head_dim": recipe["hidden"] // recipe["heads"],
        "max_position_embeddings": recipe.get("positions", 512),
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "rope_parameters": rope,
        "dtype": "float32",
    }
    if recipe.get("family") == "megalodon":
        config |= {"architectures": ["MegalodonForCausalLM"], "model_type": "megalodon"}
        config |= recipe["shape"]
        del config["num_key_value_heads"], config["head_dim"]
    return config


def tasks_of(task: Task, recipe: dict[str, Any]) -> list[Task]:
    """Whose demonstrations the policy learns from."""
    return [open_task(Config(task=name)) for name in recipe.get("tasks", ())] or [task]


Say = Callable[[str], None]


def trained_policy(
    task: Task, recipe: dict[str, Any], seed: int, work: Path, say: Say
) -> Checkpoint:
    """A policy from demonstrations alone, in bfloat16."""
    empty = empty_checkpoint(work / "empty", task, recipe, seed)
    decoder = load_model(empty)
    tokenizer = Tokenizer(empty.path)
    num = recipe["demonstrations"]
    demonstrations = [d for one in tasks_of(task, recipe) for d in one.demonstrations(num, seed)]
    if "stages" in recipe:
        learn_ledgers(decoder, tokenizer, recipe["stages"], seed, say)
    else:
        learn_demonstrations(decoder, tokenizer, tasks_of(task, recipe), recipe, seed, say)
    notes: dict[str, Any] = {"seed": seed, "recipe": recipe}
    policy = publish(decoder, empty, work, "policy", notes, torch.bfloat16)
    write_demonstrations(policy.path, demonstrations, seed)
    return policy


def learn_demonstrations(
    decoder: LanguageModel,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    recipe: dict[str, Any],
    seed: int,
    say: Say,
) -> None:
    examples = []
    for task in tasks:
        prompts = Prompts(task, tokenizer, PromptSettings())
        examples += [
            demonstration_example(prompts, d.problem.text, d.steps)
            for d in task.demonstrations(recipe["demonstrations"], seed)
        ]
    say(f"{len(examples)} demonstrations, vocabulary {tokenizer.vocab_size}")
    settings = TrainingSettings(
        num_steps=recipe["steps"],
        batch_size=64,
        optimizer="muon",
        learning_rate=3e-3,
        matrix_learning_rate=0.02,
        position_span=recipe["span"],
        max_epochs=100,
    )
    train_on_texts(decoder, examples, settings, seed, shown(say))


def shown(say: Say) -> Callable[[int, int, float], None]:
    def show(done: int, total: int, loss: float) -> None:
        if done % 100 == 0:
            say(f"step {done}/{total}, loss {loss:.4f}")

    return show


def learn_ledgers(
    decoder: LanguageModel,
    tokenizer: Tokenizer,
    stages: Sequence[tuple[int, int, int, int, int, float]],
    seed: int,
    say: Say,
) -> None:
    """Ever longer ledgers, each with several questions and their answers, one after the other.

    One question of a long ledger would leave all but twenty of its tokens nothing to teach.
    """
    for number, (least, most, questions, batch, steps, rate) in enumerate(stages, 1):
        rng = random.Random(f"{seed} {number}")
        examples = [
            questioned(rng, tokenizer, rng.randint(least, most), questions)
            for _ in range(min(batch * steps, 6000))
        ]
        settings = TrainingSettings(
            num_steps=steps,
            batch_size=batch,
            optimizer="muon",
            learning_rate=0.15 * rate,
            matrix_learning_rate=rate,
            max_epochs=100,
        )
        say(f"stage {number}: {least} to {most} lines")
        train_on_texts(decoder, examples, settings, seed + number, shown(say))


def questioned(rng: random.Random, tokenizer: Tokenizer, lines: int, num: int) -> Example:
    """A ledger and so many of its questions, each answered to the end of its text."""
    ledger = drawn_ledger(rng, lines)
    tokens = tokenizer.encode(ledger)
    given = len(tokens)
    entries = entries_of(ledger + "aaa=")
    end = max(tokenizer.end_ids)
    for name in rng.sample([*entries], min(num, len(entries))):
        tokens = [*tokens, *tokenizer.encode(f"{name}=" + "".join(worked_steps(entries[name])))]
        tokens.append(end)
    return Example(tuple(tokens), given)
