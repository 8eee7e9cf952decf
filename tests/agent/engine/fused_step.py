"""The fused decoding step against the general forward, for every family; prints those that agree.

    TRITON_INTERPRET=1 RATCHET_KERNELS=triton python -m tests.agent.engine.fused_step

On a machine with a GPU it runs there, and texts decoded in graphs are compared too.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from agent.engine import forward as forwarding
from agent.engine import graphs
from agent.engine.decode import DecodeLoop
from agent.engine.feed import feed
from agent.engine.job_cache import Cache
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.networks.architecture import SUPPORTED, Architecture
from agent.networks.llama import Decoder
from agent.networks.registry import laid_out
from kernels.dispatch import is_fused

IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")
ROWS = [[3, 4, 5, 6], [7, 8, 9, 1], [2, 2, 2, 2]]


def network(family: str, dtype: torch.dtype = torch.float32):  # type: ignore[no-untyped-def]
    config = {
        "model_type": family,
        "vocab_size": 50,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": family != "qwen2",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    torch.manual_seed(1)
    decoder = Decoder(Architecture.from_config(config))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, mean=0.0 if parameter.ndim == 2 else 0.5, std=0.2)
    return laid_out(decoder.to(DEVICE, dtype))


def agrees(family: str) -> None:
    ours = network(family)
    assert is_fused(ours.device)
    jobs, fed, states = np.arange(3), [[9, 10], [11], [12, 13, 14]], []
    for is_general in (True, False):
        cache = Cache(ours)
        cache.open([0, 0, 0])
        with rows_at_most(0 if is_general else graphs.MOST_ROWS):
            states += [feed(ours, cache, jobs, ROWS), feed(ours, cache, jobs, fed)]
            for token in (9, 10, 11):
                if is_general:
                    states.append(feed(ours, cache, jobs, [[token + i] for i in range(3)]))
                    continue
                column = torch.from_numpy(cache.append(jobs, np.ones(3, np.int64))).to(DEVICE)
                tokens = torch.arange(token, token + 3, device=DEVICE)
                states.append(ours.decode(tokens, column, cache.num_columns, cache.layers))
        states += [layer[:3, :8].float() for layer in cache.layers]
    half = len(states) // 2
    for wanted, found in zip(states[:half], states[half:], strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-3)


@contextmanager
def rows_at_most(num: int) -> Iterator[None]:
    """Forwards of more rows take the general way."""
    before, forwarding.MOST_ROWS = forwarding.MOST_ROWS, num
    try:
        yield
    finally:
        forwarding.MOST_ROWS = before


def decoded(is_captured: bool) -> list[list[int]]:
    ours = network("llama")
    cache = Cache(ours)
    cache.open([0, 0, 0])
    feed(ours, cache, np.arange(3), ROWS)
    loop = DecodeLoop(ours, cache)
    cache.graphs.is_captured = is_captured
    requests = [CompletionRequest((3,), 9, 0.5 * seed, seed) for seed in range(3)]
    given = SamplingParameters.of(requests, DEVICE)
    texts: list[list[int]] = [[6], [1], [2]]
    for _ in range(4):
        found = loop.run([t[-1] for t in texts], [len(t) for t in texts], given, 8)
        texts = [text + more for text, more in zip(texts, found.tokens, strict=True)]
    return texts


@torch.inference_mode()
def main() -> None:
    # Megalodon fuses nothing, and what reads pictures is a Llama with other embeddings.
    for family in (f for f in SUPPORTED if f not in ("llava", "megalodon")):
        agrees(family)
        print(family)
    if IS_GPU:
        assert decoded(True) == decoded(False)
        print("graph")


if __name__ == "__main__":
    main()
