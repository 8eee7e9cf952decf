"""Every engine behind RolloutBackend answers alike: the conformance test of backends.

vLLM's part runs where vLLM is installed; scripts/vllm_conformance installs it in an environment of
its own and runs this file there.
"""

import importlib.util
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.backend import RolloutBackend
from agent.engine.requests import CompletionRequest, OptionRequest, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from search.errors import TaskError, UsageError
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine

WIDE = {"head_dim": 32, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
"""vLLM's CPU attention asks for heads of 32 or more."""
PREFIX = (5, 13, 6, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    write_checkpoint(folder / "a", seed=3, scale=1.5, **WIDE)
    write_checkpoint(folder / "b", seed=8, scale=1.5, **WIDE)
    return folder


@pytest.fixture(scope="module", params=["torch", "vllm"])
def backend(request: pytest.FixtureRequest, folder: Path) -> Iterator[RolloutBackend]:
    if request.param == "torch":
        yield engine(folder / "a")
        return
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: run scripts/vllm_conformance")
    from agent.engine.vllm_engine import VllmEngine

    tokenizer = Tokenizer(folder / "a")
    yield VllmEngine(verify_checkpoint(folder / "a"), tokenizer.steps, tokenizer.end_ids)


def logprobs(path: Path, rows: list[tuple[int, ...]]) -> torch.Tensor:
    """log p(next token | row) by whole forwards."""
    decoder = load_model(verify_checkpoint(path))
    with torch.no_grad():
        return torch.stack(
            [torch.log_softmax(decoder.lm_head(decoder(torch.tensor([r])))[0, -1], 0) for r in rows]
        )


def test_greedy_texts_and_their_logprobs_are_the_policys(
    backend: RolloutBackend, folder: Path
) -> None:
    texts = backend.completions([CompletionRequest((*PREFIX, t), 12, 0.0) for t in (3, 7, 11)])
    for first, text in zip((3, 7, 11), texts, strict=True):
        row = (*PREFIX, first)
        for token, logprob in zip(text.generated.tokens, text.generated.logprobs, strict=True):
            distribution = logprobs(folder / "a", [row])[0]
            assert float(distribution.max() - distribution[token]) < 1e-4
            assert logprob == pytest.approx(float(distribution[token]), abs=2e-4)
            row = (*row, token)
        assert text.generated.version == verify_checkpoint(folder / "a").version
        assert text.generated.stop == ("end" if row[-1] == 1 else "length")


def test_a_seed_gives_the_same_text_and_another_seed_others(backend: RolloutBackend) -> None:
    def drawn(seed: int) -> list[Any]:
        return [
            t.generated.tokens
            for t in backend.completions([CompletionRequest(PREFIX, 12, 1.0, seed)])
        ]

    assert drawn(4) == drawn(4)
    assert len({str(drawn(seed)) for seed in range(8)}) > 4


def test_drawn_texts_have_the_policys_distribution(backend: RolloutBackend) -> None:
    found = backend.selftest()
    assert found.is_passed, found.describe()
    assert found.seconds < 10


def test_filters_leave_only_what_they_should(backend: RolloutBackend, folder: Path) -> None:
    distribution = logprobs(folder / "a", [PREFIX])[0].softmax(0)
    best = distribution.argsort(descending=True).tolist()
    kept = {
        "top_k": set(best[:3]),
        "min_p": {t for t in best if float(distribution[t]) >= 0.3 * float(distribution[best[0]])},
        "top_p": set(best[: 1 + int((distribution[best].cumsum(0) < 0.6).sum())]),
    }
    for name, value in (("top_k", 3), ("min_p", 0.3), ("top_p", 0.6)):
        requests = [CompletionRequest(PREFIX, 1, 1.0, s, **{name: value}) for s in range(200)]
        seen = {t.generated.tokens[0] for t in backend.completions(requests)}
        assert seen == kept[name], name


def test_distinct_lines_are_the_most_probable_ones(backend: RolloutBackend, folder: Path) -> None:
    (found,) = backend.options([OptionRequest(PREFIX, 12, 2)])
    first = logprobs(folder / "a", [PREFIX])[0]
    second = logprobs(folder / "a", [(*PREFIX, t) for t in range(16)])
    every = [((t,), float(first[t])) for t in (1, 2)]
    every += [
        ((a, b), float(first[a] + second[a, b]))
        for a, b in itertools.product(range(16), repeat=2)
        if a not in (1, 2)
    ]
    every.sort(key=lambda pair: -pair[1])
    assert [x.tokens for x in found.options] == [t for t, _ in every[:12]]
    for line, (_, logprob) in zip(found.options, every, strict=False):
        assert sum(line.logprobs) == pytest.approx(logprob, abs=2e-4)


def test_more_options_cost_only_what_is_new(backend: RolloutBackend) -> None:
    few, many, rest = (
        backend.options([OptionRequest((7, 13, 4), count, 6, known=known)])[0]
        for count, known in ((3, 0), (9, 0), (9, 3))
    )
    assert few.num_tokens + rest.num_tokens == many.num_tokens
    assert [x.tokens for x in rest.options] == [x.tokens for x in many.options]


def test_sampled_options_end_at_the_boundary(backend: RolloutBackend) -> None:
    (found,) = backend.options([OptionRequest(PREFIX, 20, 6, "sampled", 1.0, 3)])
    for line in found.options:
        assert line.stop == {1: "end", 2: "boundary"}.get(line.tokens[-1], "length")
        assert not {1, 2} & set(line.tokens[:-1])


def test_scores_are_the_policys_logprobs(backend: RolloutBackend, folder: Path) -> None:
    rows = [(*PREFIX, 7, 9, 4), (*PREFIX, 7, 9, 11, 12), (8, 13, 2)]
    found = backend.score([ScoreRequest(row, 2) for row in rows])
    for row, scores in zip(rows, found, strict=True):
        distribution = logprobs(folder / "a", [row[:k] for k in range(2, len(row))])
        wanted = [float(distribution[k, token]) for k, token in enumerate(row[2:])]
        assert scores == pytest.approx(wanted, abs=2e-4)


def test_a_prompt_longer_than_the_context_is_refused(backend: RolloutBackend) -> None:
    longest = backend.capabilities.max_positions
    with pytest.raises(TaskError, match="context"):
        backend.completions([CompletionRequest((3,) * longest, 5, 0.0)])


def test_after_an_update_nothing_of_the_old_weights_is_left(
    backend: RolloutBackend, folder: Path
) -> None:
    """The same prompt before and after: stale keys and values would give the old numbers."""
    prompt = (4, 13, 6, 2, 9, 13, 11, 3, 8, 5, 4, 6, 7, 9, 10, 12, 13, 5, 4)
    old = verify_checkpoint(folder / "a")
    new = verify_checkpoint(folder / "b")

    def first_logprob() -> float:
        return backend.completions([CompletionRequest(prompt, 1, 0.0)])[0].generated.logprobs[0]

    def source(checkpoint: Any) -> Any:
        is_torch = backend.capabilities.backend == "torch"
        return load_model(checkpoint) if is_torch else checkpoint

    before = first_logprob()
    assert before == pytest.approx(float(logprobs(folder / "a", [prompt]).max()), abs=2e-4)
    backend.update_weights(source(new), new.version)
    assert backend.version == new.version
    after = first_logprob()
    assert after == pytest.approx(float(logprobs(folder / "b", [prompt]).max()), abs=2e-4)
    assert math.fabs(after - before) > 1e-2
    backend.update_weights(source(old), old.version)
    assert first_logprob() == pytest.approx(before, abs=1e-6)


def test_a_mode_that_a_backend_lacks_is_refused(backend: RolloutBackend) -> None:
    if "drawn" in backend.capabilities.modes:
        assert len(backend.options([OptionRequest(PREFIX, 3, 4, "drawn")])[0].options) == 3
        return
    with pytest.raises(UsageError, match="drawn"):
        backend.options([OptionRequest(PREFIX, 3, 4, "drawn")])


def test_vllm_with_a_drafter_answers_greedily_and_is_tested_before_it_samples(
    folder: Path,
) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here: run scripts/vllm_conformance")
    from agent.engine.vllm_engine import VllmEngine

    tokenizer = Tokenizer(folder / "a")
    policy, drafter = (verify_checkpoint(folder / name) for name in ("a", "b"))
    drafting = VllmEngine(policy, tokenizer.steps, tokenizer.end_ids, drafter, 3)
    row = PREFIX
    for token in drafting.completions([CompletionRequest(PREFIX, 8, 0.0)])[0].generated.tokens:
        distribution = logprobs(folder / "a", [row])[0]
        assert float(distribution.max() - distribution[token]) < 1e-4
        row = (*row, token)
    found = drafting.selftest()
    print(f"\nself-test of vLLM with a drafter: {found.describe()}")
    if found.is_passed:
        drafting.completions([CompletionRequest(PREFIX, 8, 0.8, 1)])
    else:
        with pytest.raises(UsageError, match="chi-square"):
            drafting.completions([CompletionRequest(PREFIX, 8, 0.8, 1)])
