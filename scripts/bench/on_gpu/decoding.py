"""Decoding: our engine with graphs and without, a lean loop in one graph, transformers' generate.

Random weights in bfloat16, 64 tokens in, 128 out, all texts alike in length. Ours counts all of a
call: prefill, decoding, sampling with a seed a text, log-probabilities, the host's own work. The
lean loop is what a careful script would do: one graph of plain torch operations a step, the next
token by argmax, nothing copied back until the end, prefill not counted.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from scripts.bench.on_gpu.device import DEVICE, DTYPE, IS_GPU, in_graph

import torch  # isort: skip
import torch.nn.functional as F  # isort: skip
from torch import Tensor  # isort: skip

from agent.engine.option_ends import Steps  # isort: skip
from agent.engine.requests import CompletionRequest, OptionRequest  # isort: skip
from agent.engine.torch_engine import TorchEngine  # isort: skip
from agent.networks.architecture import Architecture  # isort: skip
from agent.networks.llama import Block, Decoder  # isort: skip
from scripts.bench.report import Row, missing, repeats  # isort: skip

PROMPT, NEW = (64, 128) if IS_GPU else (6, 4)
BATCHES = (1, 16, 64, 256) if IS_GPU else (2,)
SHAPES = {
    "135m": (30, 576, 9, 3, 64, 1536, 49_152),
    "1b": (16, 2048, 32, 8, 64, 8192, 128_256),
}
"""Blocks, width, heads, key heads, head width, inner width, vocabulary."""
TINY = {"tiny": (2, 32, 4, 2, 16, 64, 50)}
TARGET = 0.7
REPEATS = 3 if IS_GPU else 1


def random_model(shape: tuple[int, ...]) -> Decoder:
    layers, width, heads, key_heads, head_width, inner, vocabulary = shape
    arch = Architecture.from_config(
        {
            "model_type": "llama",
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": head_width,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        }
    )
    torch.manual_seed(0)
    with torch.device(DEVICE):
        decoder = Decoder(arch).to(DTYPE)
    decoder.frequencies = decoder.get_buffer("frequencies").to(DEVICE)
    for parameter in decoder.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.02)
    return decoder


def opened(decoder: Decoder) -> TorchEngine:
    def steps(boundary: object) -> Steps:
        """An option ends at one token in sixteen."""
        ids = frozenset(range(0, decoder.arch.vocab_size, 16))
        return Steps(boundary, ids, lambda tokens: "")  # type: ignore[arg-type]

    return TorchEngine(decoder, steps, (), kv_bytes=2**30 if IS_GPU else 2**20)


def prompts(num: int, vocabulary: int) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(num)
    rows = torch.randint(3, vocabulary, (num, PROMPT), generator=generator)
    return [tuple(row) for row in rows.tolist()]


def synchronize() -> None:
    if IS_GPU:
        torch.cuda.synchronize()


def rates(run: Callable[[], int], num_repeats: int = REPEATS) -> list[float]:
    """Tokens a second of some runs, after one that warms up."""
    run()
    found = []
    for _ in range(num_repeats):
        synchronize()
        start = time.perf_counter()
        num = run()
        synchronize()
        found.append(num / (time.perf_counter() - start))
    return found


def ours(engine: TorchEngine, num: int) -> Callable[[], int]:
    requests = [
        CompletionRequest(row, NEW, 1.0, i)
        for i, row in enumerate(prompts(num, engine.network.arch.vocab_size))
    ]

    def run() -> int:
        engine.forget()
        return sum(len(text.generated.tokens) for text in engine.completions(requests))

    return run


def options(engine: TorchEngine, num: int) -> Callable[[], int]:
    """Four distinct options after each prefix."""
    requests = [OptionRequest(row, 4, 24) for row in prompts(num, engine.network.arch.vocab_size)]

    def run() -> int:
        engine.forget()
        return sum(found.num_tokens for found in engine.options(requests))

    return run


class Lean:
    """A step of plain torch operations over static keys and values, captured in one graph."""

    def __init__(self, decoder: Decoder, num: int) -> None:
        self.decoder = decoder
        arch = decoder.arch
        shape = (num, arch.num_kv_heads, PROMPT + NEW, arch.head_dim)
        self.kept = [
            [torch.zeros(shape, dtype=DTYPE, device=DEVICE) for _ in range(2)]
            for _ in range(arch.num_layers)
        ]
        self.tokens = torch.zeros(num, dtype=torch.int64, device=DEVICE)
        self.place = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        self.columns = torch.arange(PROMPT + NEW, device=DEVICE)
        places = self.columns[:, None].float() * decoder.get_buffer("frequencies")
        angles = torch.cat((places, places), dim=-1)
        self.cos, self.sin = angles.cos().to(DTYPE), angles.sin().to(DTYPE)

    def step(self) -> None:
        arch, model = self.decoder.arch, self.decoder.model
        H, G, D = arch.num_heads, arch.num_kv_heads, arch.head_dim
        N = len(self.tokens)
        x = F.embedding(self.tokens, model.embed_tokens.weight)
        cos, sin = self.cos[self.place], self.sin[self.place]
        mask = (self.columns <= self.place)[None, None, None]
        blocks = cast(Iterable[Block], model.layers)
        for block, (keys, values) in zip(blocks, self.kept, strict=True):
            h = F.rms_norm(x, x.shape[-1:], block.input_layernorm.weight, arch.norm_eps)
            q = self._turned(block.self_attn.q_proj(h).view(N, H, D), cos, sin)
            k = self._turned(block.self_attn.k_proj(h).view(N, G, D), cos, sin)
            keys.index_copy_(2, self.place, k[:, :, None])
            values.index_copy_(2, self.place, block.self_attn.v_proj(h).view(N, G, 1, D))
            out = F.scaled_dot_product_attention(
                q.view(N, G, H // G, D), keys, values, attn_mask=mask
            )
            x = x + block.self_attn.o_proj(out.reshape(N, H * D))
            h = F.rms_norm(x, x.shape[-1:], block.post_attention_layernorm.weight, arch.norm_eps)
            x = x + block.mlp(h)
        hidden = F.rms_norm(x, x.shape[-1:], model.norm.weight, arch.norm_eps)
        self.tokens.copy_((hidden @ self.decoder.head.t()).argmax(dim=-1))
        self.place.add_(1)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin

    def captured(self) -> Callable[[], int]:
        step = in_graph(self.step)

        def run() -> int:
            self.place.fill_(PROMPT)
            for _ in range(NEW - 1):
                step()
            return len(self.tokens) * (NEW - 1)

        return run


def generate(decoder: Decoder, num: int) -> Callable[[], int]:
    from transformers import LlamaConfig, LlamaForCausalLM

    arch = decoder.arch
    config = LlamaConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.hidden_size,
        intermediate_size=arch.intermediate_size,
        num_hidden_layers=arch.num_layers,
        num_attention_heads=arch.num_heads,
        num_key_value_heads=arch.num_kv_heads,
        head_dim=arch.head_dim,
        max_position_embeddings=arch.max_positions,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model.load_state_dict(dict(decoder.named_parameters()), strict=False, assign=True)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(DEVICE)
    model.eval()
    rows = torch.tensor(prompts(num, arch.vocab_size), device=DEVICE)

    def run() -> int:
        out = model.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            do_sample=True,
            top_k=0,
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            pad_token_id=0,
        )
        return num * (out.shape[1] - PROMPT)

    return run


def measured(is_quick: bool) -> Iterator[Row]:
    shapes = SHAPES if IS_GPU else TINY
    if is_quick:
        shapes = dict(list(shapes.items())[:1])
    for name, shape in shapes.items():
        decoder = random_model(shape)
        with torch.inference_mode():
            yield from _of(name, decoder)
        del decoder


def _of(name: str, decoder: Decoder) -> Iterator[Row]:
    graph, eager = opened(decoder), opened(decoder)
    eager.cache.graphs.is_captured = False
    for num in BATCHES:
        best = rates(Lean(decoder, num).captured())
        yield repeats(
            f"decode_{name}_{num}_lean", best, "tokens/s", "one graph, prefill not counted"
        )
        found = rates(ours(graph, num))
        yield repeats(f"decode_{name}_{num}", found, "tokens/s", "ours, all of a call")
        lean = sum(best) / len(best)
        yield repeats(
            f"decode_{name}_{num}_share_of_lean",
            [rate / lean for rate in found],
            "x",
            "the lean graph",
            target=TARGET,
        )
        plain = rates(ours(eager, num), 1)
        yield repeats(f"decode_{name}_{num}_eager", plain, "tokens/s", "ours without graphs")
        yield from _options(name, num, graph, eager)
    for num in BATCHES[1::2] or BATCHES:
        try:
            theirs = rates(generate(decoder, num), 1)
        except Exception as error:  # another version of the library may not take our weights
            yield missing(f"decode_{name}_{num}_generate", f"{type(error).__name__}: {error}"[:120])
            continue
        yield repeats(f"decode_{name}_{num}_generate", theirs, "tokens/s", "transformers")
    captured = graph.cache.graphs
    why = (
        f"{len(captured.kept)} graphs, {'still' if captured.is_captured else 'no longer'} captured"
    )
    yield repeats(f"decode_{name}_graphs", [len(captured.kept)], "graphs", why)


def _options(name: str, num: int, graph: TorchEngine, eager: TorchEngine) -> Iterator[Row]:
    found, plain = rates(options(graph, num), 1), rates(options(eager, num), 1)
    yield repeats(f"options_{name}_{num}", found, "tokens/s", "four distinct options a prefix")
    yield repeats(f"options_{name}_{num}_eager", plain, "tokens/s", "the same without graphs")
