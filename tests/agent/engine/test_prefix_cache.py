"""Kept prefixes: what is found, what is evicted, and that neither changes a bit of any answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.feed import feed, prefill
from agent.engine.job_cache import Cache
from agent.engine.prefix_cache import KeptWork, KVTree
from agent.engine.requests import CompletionRequest, OptionRequest, ScoreRequest
from agent.networks.inference import InferenceNetwork
from agent.networks.pictures import picture_tokens
from agent.networks.registry import laid_out
from search.errors import TaskError
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> InferenceNetwork:
    path = write_checkpoint(tmp_path_factory.mktemp("kv") / "p", seed=3)
    return laid_out(load_model(verify_checkpoint(path)))


def random_rows(num: int, seed: int) -> list[tuple[int, ...]]:
    """Rows over few tokens, so that many share their beginnings."""
    rng = np.random.default_rng(seed)
    return [tuple(rng.integers(3, 6, rng.integers(1, 14)).tolist()) for _ in range(num)]


def hidden(network: InferenceNetwork, tree: KVTree, rows: list[tuple[int, ...]]) -> torch.Tensor:
    with torch.inference_mode():
        return prefill(network, Cache(network), tree, rows).hidden_NE


def test_ten_thousand_forks_stay_within_the_bound_and_change_nothing(
    network: InferenceNetwork,
) -> None:
    rows = random_rows(400, 1)
    wanted = torch.cat([hidden(network, KVTree(network, "v", 0), [row]) for row in rows])
    bound = 200 * network.kv_bytes
    tree = KVTree(network, "v", bound)
    rng = np.random.default_rng(2)
    for _ in range(10_000 // 50):
        chosen = rng.integers(0, len(rows), 50).tolist()
        assert torch.equal(hidden(network, tree, [rows[i] for i in chosen]), wanted[chosen])
        assert tree.num_bytes <= bound
        tree.check()
    assert tree.num_evicted > 0 and tree.num_hits > 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=9), min_size=1, max_size=12))
def test_the_tree_finds_the_longest_stored_beginning(
    network: InferenceNetwork, rows: list[list[int]]
) -> None:
    tree = KVTree(network, "v", 2**20)
    hidden(network, tree, [tuple(row) for row in rows])
    tree.check()
    assert tree.num_tokens == len({tuple(r[: i + 1]) for r in rows for i in range(len(r))})
    for row in rows:
        asked = (*row, 7, 7)
        node, found = tree.match(asked)
        assert len(found) == len(row)
        assert tree.match((9,))[1].size == 0
        assert node.tokens or node is tree.root


def test_pinned_prefixes_are_not_evicted(network: InferenceNetwork) -> None:
    tree = KVTree(network, "v", 40 * network.kv_bytes)
    kept = (3, 4, 5, 6, 7, 8)
    hidden(network, tree, [kept])
    node, _ = tree.match(kept)
    tree.pin(node)
    for start in range(12):
        hidden(network, tree, [(9, start % 7, *range(3, 12))])
        tree.check()
    assert len(tree.match(kept)[1]) == len(kept)
    tree.unpin(node)
    for start in range(12):
        hidden(network, tree, [(10, start % 7, *range(3, 12))])
    assert len(tree.match(kept)[1]) < len(kept)


def test_what_was_used_longest_ago_goes_first(network: InferenceNetwork) -> None:
    tree = KVTree(network, "v", 32 * network.kv_bytes)
    for first in (3, 4, 5):
        hidden(network, tree, [(first, *range(6, 15))])
    tree.match((3, *range(6, 15)))
    hidden(network, tree, [(6, *range(6, 15))])
    assert len(tree.match((3, *range(6, 15)))[1]) == 10
    assert len(tree.match((4, *range(6, 15)))[1]) == 0


def test_kept_work_comes_back_and_holds_its_prefix(network: InferenceNetwork) -> None:
    tree, cache = KVTree(network, "v", 2**20), Cache(network)
    prefix = (3, 4, 5)
    with torch.inference_mode():
        job = prefill(network, cache, tree, [prefix]).jobs
        feed(network, cache, job, [[6, 7]])
        tree.keep_work(cache, [KeptWork(prefix, ("k",), "payload", 0, np.array([3, 4]))])
        hidden(network, tree, [(3, 4, 5, 6, 8), (3, 4, 9)])  # others branch off around it
        segment = tree.kept_work(prefix, ("k",))
        assert segment is not None and segment.payload == "payload"
        again = Cache(network)
        again.open([5])
        tree.load(again, np.array([0]), [tree.match(prefix)[1]])
        tree.restore(segment, again, 0, 3)
    for before, after in zip(cache.layers, again.layers, strict=True):
        assert torch.equal(before[0, :5], after[0, :5])
    tree.check()
    tree.drop_work(prefix, ("k",))
    assert tree.kept_work(prefix, ("k",)) is None
    tree.check()


@pytest.mark.parametrize("kv_bytes", [0, 4096, 2**16, 2**24])
def test_the_size_of_the_pool_changes_no_answer(tmp_path: Path, kv_bytes: int) -> None:
    path = write_checkpoint(tmp_path / "p", seed=4)
    roomy, tight = engine(path), engine(path, batch_rows=12, kv_bytes=kv_bytes)
    texts = [CompletionRequest((3 + i % 4, 13, 5, 2), 14, 1.0, i) for i in range(24)]
    lines = [
        OptionRequest((3 + i % 3, 13, 5, 2)[: 2 + i % 3], 2 + i % 7, 9, mode, seed=i)
        for mode in ("distinct", "drawn")
        for i in range(12)
    ]
    for _ in range(2):
        assert tight.completions(texts) == roomy.completions(texts)
        assert tight.options(lines) == roomy.options(lines)
        tight.tree.check()


def test_no_bit_depends_on_what_shares_the_batch(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=4))
    texts = [CompletionRequest((3 + i, 13, 5, 2)[: 1 + i % 4], 20, 0.9, i) for i in range(11)]
    together = found.completions(texts)
    for request, text in zip(texts, together, strict=True):
        found.forget()
        assert found.completions([request]) == [text]


def test_equal_requests_of_one_call_get_equal_answers(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=4))
    prefix = (3, 13, 5, 2)
    found.options([OptionRequest(prefix, 2, 6)])
    asked = [OptionRequest(prefix, n, 6) for n in (5, 2, 5, 9, 5)]
    answers = found.options(asked)
    found.forget()
    assert answers == [found.options([request])[0] for request in asked]
    texts = [CompletionRequest(prefix, 12, 1.0, 3)] * 3
    assert len(set(found.completions(texts))) == 1


def test_an_enumeration_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "p", seed=4)
    for mode in ("distinct", "drawn"):
        going_on, fresh = engine(path), engine(path)
        prefix = (3, 13, 5, 2)
        spent = 0
        for known, count in ((0, 2), (2, 5), (5, 12), (12, 20)):
            request = OptionRequest(prefix, count, 6, mode, seed=11, known=known)
            misses = going_on.tree.num_misses
            (found,) = going_on.options([request])
            spent += found.num_tokens
            fresh.forget()
            assert fresh.options([request]) == [found]
            if known:
                assert going_on.tree.num_misses == misses  # nothing was read again
        (whole,) = fresh.options([OptionRequest(prefix, 20, 6, mode, seed=11)])
        assert whole.num_tokens == spent


def test_a_policy_that_reads_text_alone_refuses_pictures(tmp_path: Path) -> None:
    asked = engine(write_checkpoint(tmp_path / "p"))
    text = (*picture_tokens("a" * 31, 5, 2), 3, 4)
    with pytest.raises(TaskError, match="reads text alone"):
        asked.completions([CompletionRequest(text, 4, 0.0)])
    for mode in ("distinct", "drawn", "sampled"):
        with pytest.raises(TaskError, match="reads text alone"):
            asked.options([OptionRequest(text, 1, 4, mode)])  # type: ignore[arg-type]
    for score in (asked.score, asked.tail_logprobs):
        with pytest.raises(TaskError, match="reads text alone"):
            score([ScoreRequest((*text, 5), len(text))])
    with pytest.raises(TaskError, match="reads text alone"):
        asked.last_logits([text])


def test_a_row_with_nothing_to_score_moves_no_other_row(tmp_path: Path) -> None:
    asked = engine(write_checkpoint(tmp_path / "p"))
    rows = [ScoreRequest((3, 4, 5), 1), ScoreRequest((3, 4), 2), ScoreRequest((4, 6, 7, 8), 2)]
    alone = [asked.tail_logprobs([r])[0] for r in rows]
    assert asked.tail_logprobs(rows) == alone and alone[1] == 0.0 and alone[2] < 0.0
