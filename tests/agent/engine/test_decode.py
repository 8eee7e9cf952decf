"""Decoding: the bits of the general path, however many steps the host is away."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine import decode, graphs
from agent.engine.decode import Decoded, DecodeLoop
from agent.engine.feed import feed, prefill
from agent.engine.graphs import Graphs
from agent.engine.job_cache import Cache
from agent.engine.prefix_cache import KVTree
from agent.engine.requests import CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.networks.inference import InferenceNetwork
from agent.networks.registry import laid_out
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine

PREFIXES = [(3, 4, 5), (4, 6), (5, 7, 8, 9, 3)]
LAST, PLACES = [4, 5, 6], [0, 1, 2]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> InferenceNetwork:
    path = write_checkpoint(tmp_path_factory.mktemp("decode") / "p", seed=3)
    return laid_out(load_model(verify_checkpoint(path)))


def parameters(temperature: float = 0.7, top_k: int = 0) -> SamplingParameters:
    requests = [CompletionRequest((3,), 9, temperature, seed, top_k=top_k) for seed in range(3)]
    return SamplingParameters.of(requests, torch.device("cpu"))


def opened(network: InferenceNetwork) -> DecodeLoop:
    cache = Cache(network)
    prefill(network, cache, KVTree(network, "v", 2**20), PREFIXES)
    return DecodeLoop(network, cache)


def joined(parts: list[Decoded]) -> list[tuple[list[int], list[float], list[float]]]:
    return [
        (
            [t for p in parts for t in p.tokens[n]],
            [x for p in parts for x in p.logprob[n]],
            [x for p in parts for x in p.processed_logprob[n]],
        )
        for n in range(len(PREFIXES))
    ]


def test_a_token_a_job_has_the_bits_of_the_general_path(network: InferenceNetwork) -> None:
    """Same hidden states, same keys and values."""
    found = []
    with torch.inference_mode():
        for is_general in (False, True):
            cache = opened(network).cache
            states = []
            for i in range(3):
                tokens = [4 + i, 9, 3]
                if is_general:
                    jobs = np.arange(3)
                    states.append(feed(network, cache, jobs, [[t] for t in tokens]))
                    continue
                column = torch.from_numpy(cache.append(np.arange(3), np.ones(3, np.int64)))
                given = (torch.tensor(tokens), column, cache.num_columns, cache.layers)
                states.append(network.decode(*given))
            used = [layer[:3, : cache.num_columns].clone() for layer in cache.layers]
            found.append((states, used, cache.lengths.tolist()))
    for left, right in zip(found[0][0] + found[0][1], found[1][0] + found[1][1], strict=True):
        assert torch.equal(left, right)
    assert found[0][2] == found[1][2]


@pytest.mark.parametrize("top_k", [0, 3])
def test_several_steps_at_once_write_what_single_steps_write(
    network: InferenceNetwork, top_k: int
) -> None:
    with torch.inference_mode():
        several, single = opened(network), opened(network)
        together = several.run(LAST, PLACES, parameters(top_k=top_k), 5)
        parts, last = [], LAST
        for step in range(5):
            places = [p + step for p in PLACES]
            parts.append(single.run(last, places, parameters(top_k=top_k), 1))
            last = [tokens[-1] for tokens in parts[-1].tokens]
    assert joined([together]) == joined(parts)
    assert several.cache.lengths.tolist() == single.cache.lengths.tolist()
    for left, right in zip(several.cache.layers, single.cache.layers, strict=True):
        assert torch.equal(left[:3], right[:3])


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_text_is_the_same_whether_the_host_looks_at_each_token_or_at_eight(
    temperature: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends, limits and the context's end within the steps drop what comes after them."""
    path = write_checkpoint(tmp_path / "p", seed=4)
    requests = [
        CompletionRequest((3, *([4] * (n % 4))), 3 + 5 * n, temperature, seed=n) for n in range(14)
    ]
    wanted = engine(path).completions(requests)
    monkeypatch.setattr(DecodeLoop, "num_steps", 8)
    found = engine(path, batch_rows=4).completions(requests)
    assert found == wanted
    stops = {text.generated.stop for text in wanted}
    assert stops == ({"end", "length"} if temperature else {"length"})


def test_a_text_whose_logits_spoil_after_its_end_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits that are not finite count up to a text's end only, and spoil no later text."""
    monkeypatch.setattr(DecodeLoop, "num_steps", 8)
    asked = engine(write_checkpoint(tmp_path / "p", seed=4), batch_rows=2)
    request = CompletionRequest((3, 4), 3, 0.8, seed=1)
    (wanted,) = asked.completions([request])
    step = DecodeLoop._step

    def spoiled(self, rows, given, num):  # type: ignore[no-untyped-def]
        step(self, rows, given, num)
        if int(rows.step) > 4:
            rows.scores[int(rows.step) - 1, 2] = 1.0
            self.cache.layers[0][:, 5:] = float("nan")

    monkeypatch.setattr(DecodeLoop, "_step", spoiled)
    longer = CompletionRequest((3, 4), 30, 0.8, seed=3)
    short, long = asked.completions([request, longer])
    assert short == wanted
    assert long.error == "the policy's logits are not finite" and len(long.generated.tokens) < 9
    monkeypatch.setattr(DecodeLoop, "_step", step)
    asked.forget()
    assert asked.completions([request]) == [wanted]


class Stream:
    def __init__(self, device: object = None) -> None: ...

    def wait_stream(self, other: object) -> None: ...

    def synchronize(self) -> None: ...


class Graph:
    """Stands for a CUDA graph: notes when it is captured, and fails where it is told to."""

    under_way = most = 0
    why = ""

    def capture_begin(self, **given: object) -> None:
        Graph.under_way += 1
        Graph.most = max(Graph.most, Graph.under_way)
        if Graph.why:
            raise RuntimeError(Graph.why)

    def capture_end(self) -> None:
        time.sleep(0.01)
        Graph.under_way -= 1

    def replay(self) -> None: ...


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of CUDA as a capture asks for."""
    Graph.under_way, Graph.most, Graph.why = 0, 0, ""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)


@pytest.mark.usefixtures("no_cuda")
def test_a_graph_that_cannot_be_captured_is_told_once_and_decoding_goes_on(
    network: InferenceNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    """As a driver without graphs, or memory that is out, would have it."""
    Graph.why = "CUDA error: operation not permitted when stream is capturing\nmore"
    with torch.inference_mode():
        plain, loop = opened(network), opened(network)
        wanted = [plain.run(LAST, PLACES, parameters(), 2) for _ in range(2)]
        loop.cache.graphs.is_captured = True
        found = [loop.run(LAST, PLACES, parameters(), 2) for _ in range(2)]
    assert joined(found) == joined(wanted)
    assert [r.getMessage() for r in caplog.records] == [
        "this engine goes on without CUDA graphs, slower: "
        "CUDA error: operation not permitted when stream is capturing"
    ]


@pytest.mark.usefixtures("no_cuda")
def test_engines_in_threads_capture_one_after_another() -> None:
    def captured(key: int) -> bool:
        own = Graphs(torch.device("cpu"), can_capture=True)
        own.is_captured = True
        own.of(key, lambda: None, lambda: None)()
        return key in own.kept

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(captured, range(16)))
    assert Graph.most == 1


@pytest.mark.usefixtures("no_cuda")
def test_a_step_that_fails_within_a_capture_ends_it() -> None:
    own = Graphs(torch.device("cpu"), can_capture=True)
    own.is_captured = True
    calls = []

    def step() -> None:
        calls.append(Graph.under_way)
        if Graph.under_way:
            raise RuntimeError("an operation that reads back")

    assert own.of("key", lambda: None, step) is step
    assert calls == [0, 1] and Graph.under_way == 0
    assert not own.is_captured


@pytest.mark.usefixtures("no_cuda")
def test_memory_that_runs_out_in_a_capture_is_told_and_costs_no_later_graph() -> None:
    """The engine goes on with smaller batches; those may be captured again."""
    own = Graphs(torch.device("cpu"), can_capture=True)
    own.is_captured = True

    def step() -> None:
        if Graph.under_way:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        own.of("large", lambda: None, step)
    assert own.is_captured and not own.kept and Graph.under_way == 0
    own.of("small", lambda: None, lambda: None)
    assert "small" in own.kept


def test_steps_that_read_back_from_the_device_are_not_captured() -> None:
    assert not Graphs(torch.device("cuda", 0), can_capture=False).is_captured
    assert Graphs(torch.device("cuda", 0), can_capture=True).is_captured


def test_rows_of_a_bucket_beyond_the_jobs_change_nothing(
    network: InferenceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "bucket", lambda num: 8)
    monkeypatch.setattr(Graphs, "of", lambda self, key, fill, step: (fill(), step)[1])
    with torch.inference_mode():
        padded = opened(network)
        padded.cache.graphs.is_captured = True
        found = padded.run(LAST, PLACES, parameters(), 4)
        wanted = opened(network).run(LAST, PLACES, parameters(), 4)
    assert list(padded.rows) == [8]
    assert joined([found]) == joined([wanted])
    assert padded.cache.num_jobs == 3


def test_a_bucket_is_the_next_size_and_no_larger_than_the_largest() -> None:
    assert [graphs.bucket(n) for n in (1, 3, 17, 256, 512, 700)] == [1, 4, 24, 256, 512, 700]
    assert sorted(graphs.BUCKETS) == list(graphs.BUCKETS)


def test_on_a_gpu_room_is_made_ahead_within_a_share_of_its_memory(
    network: InferenceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Growing step by step would move the cache, and cost its graphs, each time."""

    def shape(share: int, num_jobs: int, num_columns: int) -> tuple[int, ...]:
        monkeypatch.setattr(Cache, "_gpu_share", share)
        cache = Cache(network)
        cache.reserve(num_jobs, num_columns)
        return tuple(cache.layers[0].shape[:2])

    column = network.kv_bytes
    assert shape(0, 3, 20) == (3, 32)
    assert shape(100 * 256 * column, 3, 20) == (100, 256)
    assert shape(100 * 256 * column, 3, 300) == (50, 512)
    assert shape(100 * 256 * column, 120, 20) == (120, 256)
    assert shape(10_000 * 256 * column, 3, 20) == (512, 256)


def test_a_longer_text_does_not_multiply_the_room_of_jobs_that_are_not_there(
    network: InferenceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cache, "_gpu_share", 100 * 256 * network.kv_bytes)
    cache = Cache(network)
    cache.open([3, 5])
    cache.layers[0][:2, :5] = 1.5
    cache.reserve(2, 3000)
    assert tuple(cache.layers[0].shape[:2]) == (6, 4096)
    assert bool((cache.layers[0][:2, :5] == 1.5).all())
    assert not bool(cache.layers[0][2:].any())


def test_where_there_is_no_memory_ahead_what_is_asked_for_is_enough(
    network: InferenceNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cache, "_gpu_share", 100 * 256 * network.kv_bytes)
    grow = Cache._grow

    def short(self: Cache, jobs: int, columns: int) -> None:
        if jobs > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        grow(self, jobs, columns)

    monkeypatch.setattr(Cache, "_grow", short)
    cache = Cache(network)
    cache.reserve(3, 20)
    assert tuple(cache.layers[0].shape[:2]) == (3, 256)


def test_a_cache_that_moves_drops_its_graphs(network: InferenceNetwork) -> None:
    """They hold its addresses."""
    cache = opened(network).cache
    cache.graphs.kept["step"] = cache.graphs.buffers["step"] = object()
    cache.reserve(cache.num_jobs, cache.layers[0].shape[1])
    assert "step" in cache.graphs.kept
    cache.reserve(cache.num_jobs, cache.layers[0].shape[1] + 1)
    assert not cache.graphs.kept and not cache.graphs.buffers


@pytest.mark.round
def test_what_a_gpu_fuses_agrees_with_the_general_path() -> None:
    """On Triton's interpreter, in a process of its own, for each family."""
    pytest.importorskip("triton")

    environment = os.environ | {"TRITON_INTERPRET": "1", "RATCHET_KERNELS": "triton"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.agent.engine.fused_step"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parent.parent.parent.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["llama", "mistral", "qwen2", "qwen3"]
