"""A small chat model: a byte-level vocabulary with the marks of turns, and random weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from agent.networks.architecture import Architecture
from agent.networks.llama import Decoder

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML, behind the text's opening token."""
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXTS = [
    "Solve the problem step by step, one step a line.\nEnd with a line '#### ' and the answer.",
    "Problem: Ann has 3 apples and buys 4 more. How many does she have?\nSolution:\n3 + 4 = 7",
    "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips altogether.\n#### 72",
]


def byte_level(bos: bool = True) -> Tokenizer:
    """Byte pairs, every byte in the vocabulary, the opening token put first where wanted."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    """Pieces that carry the space before them, and bytes for what no piece spells."""
    pieces = ["<unk>", "<s>", "</s>", "▁", "\n", "▁so", "▁cat", "s", "▁5", "5", "+", "=", "1", "0"]
    pieces += [c for c in "abcdefghijklmnopqrtuvwxyz.,?" if c not in pieces]
    pieces += [f"<0x{i:02X}>" for i in range(256)]
    vocab = [(piece, -float(len(pieces) if len(piece) == 1 else 1)) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def write_chat_model(path: Path, seed: int = 0, **changes: Any) -> Path:
    """A Llama of random weights whose folder is that of an instruct model."""
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level()
    tokenizer.save(str(path / "tokenizer.json"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "dtype": "bfloat16",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    } | changes
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3]}))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": "<|im_end|>"})
    )
    (path / "chat_template.jinja").write_text(TEMPLATE)
    (path / "LICENSE").write_text("free to use in tests\n")
    torch.manual_seed(seed)
    decoder = Decoder(Architecture.from_config(config))
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    tensors = {k: v.detach().to(torch.bfloat16) for k, v in decoder.named_parameters()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path
