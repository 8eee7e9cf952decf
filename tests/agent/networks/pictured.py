"""Tiny networks that read pictures."""

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from agent.checkpoints.header import read_header
from agent.networks.llava import LlavaModel
from agent.pictures.folder import PictureFolder
from tests.agent.conftest import write_checkpoint

IMAGE, VOCAB = 16, 17
"""The placeholder's id, behind the characters of `expressions`."""
PLACES = 16


def write_llava(path: Path, seed: int = 0, **changes: Any) -> Path:
    """A LLaVA directory with random weights: pictures of 16 by 64, patches of 8."""
    write_checkpoint(path, seed, vocab_size=VOCAB)
    text = json.loads((path / "config.json").read_text())
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_channels": 1,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": False,
    }
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": text,
        "vision_config": vision,
        "image_token_index": IMAGE,
        "image_seq_length": PLACES,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "tie_word_embeddings": True,
        "eos_token_id": 1,
    } | changes
    (path / "config.json").write_text(json.dumps(config))
    size = {"height": 16, "width": 64}
    said = {"size": size, "image_mean": [0.5], "image_std": [0.5], "resample": 2}
    (path / "preprocessor_config.json").write_text(json.dumps(said))
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(
        {"id": IMAGE, "content": "<image>", "special": True, "normalized": False}
        | {"single_word": False, "lstrip": False, "rstrip": False}
    )
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    torch.manual_seed(seed)
    from agent.networks.architecture import Architecture

    model = LlavaModel(Architecture.from_config(config))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    tensors = {k: v.detach().clone() for k, v in model.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    read_header(path)
    return path


def kept_pictures(folder: Path, num: int, seed: int = 0) -> list[str]:
    """Digests of different pictures of noise in a folder."""
    generator = torch.Generator().manual_seed(seed)
    pictures = PictureFolder(folder)
    found = []
    for _ in range(num):
        raw = torch.randint(0, 256, (16, 64), generator=generator, dtype=torch.uint8)
        found.append(pictures.put(Image.fromarray(raw.numpy(), "L")))
    return found
