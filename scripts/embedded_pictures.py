"""The policy of task `pictures`: a small tower, and the embedded policy of `expressions` behind it.

1. The tower learns alone to say which character stands in each column of eight pixels (known, since
   the pictures are drawn here). Without this stage a tower of random weights learns nothing from
   the words behind it.
2. Tower, projector and language model learn together: to write down what a picture says, and then
   what the language model alone would write. Rows without a picture are mixed in. So what it could
   before is kept, its errors among it (Li and Hoiem, arXiv 1606.09282).
"""

import json
import random
from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.engine.requests import CompletionRequest
from agent.engine.tokenizer import Tokenizer
from agent.hosting.model_host import GeneratorHost, HostSettings
from agent.networks.architecture import Architecture
from agent.networks.llava import LlavaModel
from agent.networks.pictures import DIGITS, picture_tokens
from agent.networks.siglip import SiglipTower
from agent.networks.vision_shape import VisionShape
from agent.pictures.drawing import (
    HEIGHT,
    WIDTH,
    Drawing,
    drawn_by_lot,
    ends_of,
    picture_of,
    place_of,
)
from agent.pictures.preprocessing import FILE, Preprocessing
from agent.tasks.expressions import EASY, HARD, drawn_expression
from agent.tasks.task import Task, is_held_out
from agent.training.examples import Example
from agent.training.methods.sft import train_on_texts
from agent.training.optimizer import Optimizer, TrainingSettings
from agent.training.rehearsal import write_demonstrations
from scripts.embedded_policy import Say, shown

CHARACTERS = "0123456789+-*"
COLUMN = 8
"""Pixels that the tower's first lesson names a character for."""
PREPROCESSING = Preprocessing(HEIGHT, WIDTH, (0.5,), (0.5,), 2)
TEXT_SHARE = 0.25
"""Rows without a picture in the second stage."""


def config_of(text: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    """LLaVA's config.json around a language model's, with a placeholder behind its vocabulary."""
    token = text["vocab_size"]
    patch = recipe["patch"]
    places = (HEIGHT // patch) * (WIDTH // patch)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": recipe["tower"],
        "intermediate_size": recipe["tower_inner"],
        "num_hidden_layers": recipe["tower_layers"],
        "num_attention_heads": recipe["tower_heads"],
        "num_channels": 1,
        "image_size": round(places**0.5) * patch,
        "patch_size": patch,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    }
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": text | {"vocab_size": token + 1},
        "vision_config": vision,
        "image_token_index": token,
        "image_seq_length": places,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": True,
        "eos_token_id": text["eos_token_id"],
        "dtype": "float32",
    }


def empty_pictured(path: Path, recipe: dict[str, Any], seed: int) -> Checkpoint:
    """The embedded policy of `expressions` with a tower of random weights before it."""
    base = verify_checkpoint(EMBEDDED / "expressions" / "policy")
    path.mkdir(parents=True)
    config = config_of(base.config, recipe)
    token = config["image_token_index"]
    (path / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (path / FILE).write_text(json.dumps(PREPROCESSING.as_json(), indent=2) + "\n")
    tokenizer = json.loads((base.path / "tokenizer.json").read_text())
    placeholder = {"id": token, "content": "<image>", "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"].append(placeholder | flags)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = json.loads((base.path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(said, indent=2) + "\n")
    training = base.notes["training"] | {"position_span": 0}
    notes = {"task": "pictures", "role": "policy", "training": training}
    (path / "ratchet.json").write_text(json.dumps(notes))
    torch.manual_seed(seed)
    model = LlavaModel(Architecture.from_config(config))
    for parameter in (*model.vision_tower.parameters(), *model.multi_modal_projector.parameters()):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    nn.init.normal_(model.vision_tower.embeddings.position_embedding.weight, std=0.5)
    tensors = {k: v.detach().clone() for k, v in model.named_parameters()}
    language = load_model(base)
    for name, parameter in language.named_parameters():
        own = "language_model." + name
        if tensors[own].shape == parameter.shape:
            tensors[own] = parameter.detach().clone()
        else:  # embeddings, to which the placeholder's is added
            tensors[own][:token] = parameter.detach()
            tensors[own][token] = 0.0
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return verify_checkpoint(path)


class Drawn:
    """Pictures of expressions that may be learned from, drawn anew for each."""

    def __init__(self, num: int, seed: int) -> None:
        rng = random.Random(f"pictures {seed}")
        self.texts: list[str] = []
        self.drawings: list[Drawing] = []
        while len(self.texts) < num:
            text = drawn_expression(rng, rng.choice((*EASY, *HARD, *HARD)))
            if not is_held_out(text):
                self.texts.append(text)
                self.drawings.append(drawn_by_lot(rng))
        self._greys = torch.empty((num, HEIGHT, WIDTH), dtype=torch.uint8)
        for i, (text, drawing) in enumerate(zip(self.texts, self.drawings, strict=True)):
            raw = bytearray(picture_of(text, drawing, i).tobytes())
            self._greys[i] = torch.frombuffer(raw, dtype=torch.uint8).view(HEIGHT, WIDTH)

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 1, H, W]"""
        return (self._greys[list(rows)][:, None].float() / 255.0 - 0.5) / 0.5

    def columns(self, rows: Sequence[int]) -> Tensor:
        """[B, WIDTH / COLUMN]: which character stands there; 0 is none."""
        found = torch.zeros((len(rows), WIDTH // COLUMN), dtype=torch.long)
        for b, i in enumerate(rows):
            text = self.texts[i]
            left = place_of(text, self.drawings[i])[0]
            ends = ends_of(text, self.drawings[i])
            for c in range(WIDTH // COLUMN):
                at = (c + 0.5) * COLUMN
                if left <= at < ends[-1]:
                    found[b, c] = 1 + CHARACTERS.index(text[bisect(ends, at)])
        return found


class ColumnReader(nn.Module):
    """The tower's first lesson: a patch column's features, one above the other, name what stands
    there."""

    def __init__(self, tower: SiglipTower) -> None:
        super().__init__()
        self.tower = tower
        size = tower.shape.patch_size
        self.down, self.across, self.each = HEIGHT // size, WIDTH // size, size // COLUMN
        kinds = 1 + len(CHARACTERS)
        self.head = nn.Linear(self.down * tower.shape.hidden_size, self.each * kinds)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Logits [B, WIDTH / COLUMN, kinds]."""
        features = self.tower(pixels_BCHW).unflatten(1, (self.down, self.across))
        named: Tensor = self.head(features.transpose(1, 2).flatten(2))
        return named.unflatten(-1, (self.each, -1)).flatten(1, 2)


def learn_columns(tower: SiglipTower, drawn: Drawn, steps: int, seed: int, say: Say) -> None:
    """The first stage."""
    torch.manual_seed(seed)
    reader = ColumnReader(tower)
    settings = TrainingSettings(optimizer="muon", learning_rate=4e-3, matrix_learning_rate=0.02)
    optimizer = Optimizer(reader, settings, steps)
    rng = random.Random(seed)
    for step in range(steps):
        rows = [rng.randrange(len(drawn.texts)) for _ in range(64)]
        logits = reader(drawn.pixels(rows))
        wanted = drawn.columns(rows)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        loss.backward()
        optimizer.step(step)
        if step % 100 == 99:
            is_ink = wanted > 0
            right = (logits.argmax(-1) == wanted)[is_ink].float().mean()
            told = f"loss {float(loss.detach()):.3f}, right {float(right):.3f}"
            say(f"columns {step + 1}/{steps}, {told}")


def written_below(texts: Sequence[str], seed: int) -> list[tuple[int, ...]]:
    """What the language model alone samples below each expression, its end included."""
    base = verify_checkpoint(EMBEDDED / "expressions" / "policy")
    tokenizer = Tokenizer(base.path)
    host = GeneratorHost("policy", HostSettings(threads=torch.get_num_threads()))
    asked = [
        CompletionRequest(tuple(tokenizer.encode(text + "\n")), 160, 1.0, seed + i)
        for i, text in enumerate(texts)
    ]
    return [found.generated.tokens for found in host.completions(base.ref("policy"), asked)]


def rows_of(shape: VisionShape, drawn: Drawn, seed: int) -> list[Example]:
    """The second stage's rows: a picture, what it says, and what the base writes below that."""
    ids = {c: i for i, c in enumerate(["<pad>", "</s>", "\n", *CHARACTERS])}
    rng = random.Random(f"rows {seed}")
    below = written_below(drawn.texts, seed)
    found = []
    for i in rng.sample(range(len(drawn.texts)), len(drawn.texts)):
        text = drawn.texts[i]
        tokens = [ids[c] for c in text + "\n"] + list(below[i])
        if rng.random() < TEXT_SHARE:
            found.append(Example(tuple(tokens), len(text) + 1))
            continue
        prompt = picture_tokens(f"{i:0{DIGITS}x}", shape.num_tokens, shape.image_token)
        found.append(Example((*prompt, ids["\n"], *tokens), len(prompt) + 1))
    return found


def pictured_policy(
    task: Task, recipe: dict[str, Any], seed: int, work: Path, say: Say
) -> Checkpoint:
    """A policy that reads pictures, in bfloat16."""
    empty = empty_pictured(work / "empty", recipe, seed)
    model = load_model(empty)
    shape = empty.architecture.vision
    if not isinstance(model, LlavaModel) or shape is None:
        raise TypeError("the policy of pictures must read them")
    drawn = Drawn(recipe["pictures"], seed)
    say(f"{len(drawn.texts):,} pictures")
    learn_columns(model.vision_tower.train(), drawn, recipe["column_steps"], seed, say)
    model.source = lambda digest: drawn.pixels([int(digest, 16)])[0]
    examples = rows_of(shape, drawn, seed)
    say(f"{len(examples):,} rows")
    settings = TrainingSettings(
        num_steps=recipe["steps"],
        batch_size=64,
        optimizer="muon",
        learning_rate=1e-3,
        matrix_learning_rate=0.01,
        max_epochs=100,
    )
    train_on_texts(model, examples, settings, seed, shown(say))
    notes: dict[str, Any] = {"seed": seed, "recipe": recipe}
    policy = publish(model, empty, work, "policy", notes, torch.bfloat16)
    write_demonstrations(policy.path, task.demonstrations(recipe["demonstrations"], seed), seed)
    return policy
