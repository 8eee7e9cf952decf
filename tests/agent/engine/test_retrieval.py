"""The policy drafts for itself over a part of a long text: never another token, and a right guess
where the part is well chosen."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.checkpoints.embedded import EMBEDDED
from agent.checkpoints.weights import load_model
from agent.engine.draft_choice import Costs, Drafter, DraftSource
from agent.engine.drafting import ModelDrafts
from agent.engine.feed import feed
from agent.engine.job_cache import Cache
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import CompletionRequest
from agent.engine.retrieval import CHUNK, RECENT, Choice, RetrievalDrafts
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import PolicyHost, Speculation
from agent.tasks.ledger import Ledger
from scripts.bench.long_context import Window
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine


def long_engine(path: Path, positions: int = 1024, **config: int) -> TorchEngine:
    written = write_checkpoint(path / "p", seed=5, max_position_embeddings=positions, **config)
    return engine(written)


def prompts(lengths: list[int], seed: int = 0) -> list[tuple[int, ...]]:
    rng = random.Random(seed)
    return [tuple(rng.randint(3, 15) for _ in range(n)) for n in lengths]


@pytest.mark.parametrize("below", ["", "model", "lookup"])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_draft_by_retrieval_changes_no_token_and_no_bit(
    tmp_path: Path, temperature: float, below: str
) -> None:
    found = long_engine(tmp_path, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    requests = [
        CompletionRequest(row, 40, temperature, i)
        for i, row in enumerate(prompts([90, 300, 410, 530, 700, 300, 90, 640]))
    ]
    plain = found.completions(requests)
    lower = {
        "": None,
        "model": ModelDrafts(found.network, "d", 2**22),
        "lookup": LookupDrafts(),
    }[below]
    source = RetrievalDrafts(found.network, 96, lower)
    drafted = found.completions(requests, Drafter([source], 5, "always"))
    assert [t.generated for t in drafted] == [t.generated for t in plain]
    for text, request in zip(drafted, requests, strict=True):
        if len(request.prefix) + len(text.generated.tokens) <= source.least_columns:
            assert text.num_drafted == 0  # there is nothing to leave out
        elif len(request.prefix) >= source.least_columns and len(text.generated.tokens) > 2:
            assert text.num_drafted > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_bit_depends_on_drafts_or_on_the_batch_in_a_long_text_either(
    tmp_path: Path, temperature: float
) -> None:
    """Products over 256 to 512 columns add up in parts that depend on their number."""
    found = long_engine(tmp_path)
    rows = prompts([230, 260, 300, 390, 420, 500, 520, 800])
    requests = [CompletionRequest(row, 30, temperature, i) for i, row in enumerate(rows)]
    together = [t.generated for t in found.completions(requests)]
    found.forget()
    alone = [found.completions([r])[0].generated for r in requests]
    assert alone == together
    drafter = Drafter([ModelDrafts(found.network, "d", 2**22)], 3, "always")
    assert [t.generated for t in found.completions(requests, drafter)] == together


@pytest.mark.parametrize("source", ["model", "retrieval"])
def test_a_text_at_the_end_of_its_context_stops_no_other_draft(tmp_path: Path, source: str) -> None:
    found = long_engine(tmp_path, 256)
    requests = [
        CompletionRequest(row, 60, 1.0, i)
        for i, row in enumerate(prompts([100, 240, 250, 253, 254, 255, 120]))
    ]
    sources = {
        "model": ModelDrafts(found.network, "d", 2**22),
        "retrieval": RetrievalDrafts(found.network, 64),
    }
    drafted = found.completions(requests, Drafter([sources[source]], 7, "always"))
    plain = found.completions(requests)
    assert [t.generated for t in drafted] == [t.generated for t in plain]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_best_chunks_by_their_mean_keys_are_seen_with_the_first_and_the_last(
    tmp_path: Path, kv_heads: int
) -> None:
    found = long_engine(tmp_path, num_attention_heads=4, num_key_value_heads=kv_heads)
    network, (row,) = found.network, prompts([400])
    cache = Cache(network)
    feed(network, cache, cache.open([0]), [row[:-1]])
    source = RetrievalDrafts(network, 96)
    source.draft([CompletionRequest(row[:-1], 4, 0.0)], [[row[-1]]], [1], cache)
    small, kept = source._small.layers[0][0], cache.layers[0][0]
    recent = (399 - RECENT) // CHUNK * CHUNK
    num_chosen = (1 + source.num_chunks) * CHUNK
    torch.testing.assert_close(small[num_chosen : num_chosen + 399 - recent], kept[recent:399])
    # The first layer's query depends on nothing that was left out.
    queries: list[torch.Tensor] = []
    again = Cache(network)
    jobs = again.open([0])
    feed(network, again, jobs, [row[:-1]])
    feed(network, again, jobs, [[row[-1]]], None, lambda _, q: queries.append(q[0].clone()))
    for head in range(kv_heads):
        means = kept[:recent, head].unflatten(0, (-1, CHUNK)).mean(dim=1)
        asked = queries[0].view(kv_heads, -1, 16)[head].sum(dim=0)
        best = set(((means @ asked)[1:].topk(source.num_chunks).indices + 1).tolist()) | {0}
        columns = [
            int((kept[:399, head] == small[place, head]).all(dim=-1).nonzero()[0, 0])
            for place in range(num_chosen)
        ]
        assert len(set(columns)) == num_chosen
        assert {c // CHUNK for c in columns} == best
        values = kept[columns, kv_heads + head]  # of the same columns as the keys
        torch.testing.assert_close(small[:num_chosen, kv_heads + head], values)


def test_a_text_that_keeps_all_but_a_chunk_is_nearly_always_guessed(tmp_path: Path) -> None:
    found = long_engine(tmp_path)
    requests = [CompletionRequest(row, 60, 1.0, i) for i, row in enumerate(prompts([300] * 6))]
    drafter = Drafter([RetrievalDrafts(found.network, 296, stride=1)], 4, "always")
    found.completions(requests, drafter)
    record = drafter.record("retrieval")
    assert record.num_drafted > 50
    assert record.acceptance > 0.95


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_may_be_asked_for_again_and_several_times_at_once(
    tmp_path: Path, temperature: float
) -> None:
    found = long_engine(tmp_path)
    (row, other) = prompts([300, 420])
    request = CompletionRequest(row, 30, temperature, 1)
    drafter = Drafter([RetrievalDrafts(found.network, 96)], 4, "always")
    (plain,) = found.completions([request])
    for asked in ([request], [request], [request] * 3, [CompletionRequest(other, 9, 1.0)]):
        texts = found.completions(asked, drafter)
        if asked[0] is request:
            assert all(t.generated == plain.generated for t in texts)
    assert found.completions([request], drafter)[0].generated == plain.generated


@pytest.mark.parametrize("below", [False, True])
def test_where_nothing_is_left_out_the_states_are_those_of_all(tmp_path: Path, below: bool) -> None:
    """Each row sees its own column, and none twice."""
    found = long_engine(tmp_path)
    network, (row,) = found.network, prompts([301])
    cache = Cache(network)
    feed(network, cache, cache.open([0]), [row[:-1]])
    whole = Cache(network)
    feed(network, whole, whole.open([0]), [row])

    class Whole(RetrievalDrafts):
        least_columns = 0

    source = Whole(network, 320, LookupDrafts() if below else None)
    source.num_chunks = (300 - RECENT) // CHUNK - 1  # all of them
    source.draft([CompletionRequest(row[:-1], 9, 0.0)], [[row[-1]]], [1], cache)
    for small, full in zip(source._small.layers, whole.layers, strict=True):
        torch.testing.assert_close(small[0, 300], full[0, 300])
        assert len({tuple(c.flatten().tolist()) for c in small[0, :300]}) == 300


def test_short_texts_take_no_room_in_the_small_cache_and_old_ones_give_it_back(
    tmp_path: Path,
) -> None:
    found = long_engine(tmp_path)
    source = RetrievalDrafts(found.network, 96)
    drafter = Drafter([source], 4, "always")
    short = [CompletionRequest((3, 4 + i % 9), 6, 1.0, i) for i in range(50)]
    long = [CompletionRequest(row, 6, 1.0, i) for i, row in enumerate(prompts([200, 300]))]
    found.completions([*short, *long], drafter)
    assert len(source._means.texts) <= 2 and source._small.num_jobs <= 2
    assert source._small.layers[0].shape[0] <= 4
    assert source._small.num_columns < 200  # of a budget of 96, and no block of 512


@pytest.mark.parametrize("below", ["", "lookup", "model"])
def test_the_self_test_of_retrieval_has_drafts_to_test(tmp_path: Path, below: str) -> None:
    """Two levels of drafts leave the joint distribution of three tokens as it is."""
    found = long_engine(tmp_path)
    other = engine(write_checkpoint(tmp_path / "o", seed=9, max_position_embeddings=1024))
    lower = {
        "": None,
        "lookup": LookupDrafts(),
        "model": ModelDrafts(other.network, "d", 2**24),
    }[below]
    source = RetrievalDrafts(found.network, 64, lower)
    verdict = found.selftest(Drafter([source], 3, "always"))
    assert verdict.is_passed and verdict.num_drafted > 100
    if below == "model":
        assert 0 < source.below_record.num_accepted < source.below_record.num_drafted


def test_the_self_test_has_every_source_draft(tmp_path: Path) -> None:
    """With look-up beside it, too, whose drafts need no long text."""
    found = long_engine(tmp_path)
    source = RetrievalDrafts(found.network)
    drafter = Drafter([LookupDrafts(), source], 3, "always", selftest=found.selftest)
    drafter.prove([CompletionRequest((3, 4), 9, 1.0)])
    assert drafter.verdict is not None and drafter.verdict.is_passed
    assert drafter.verdict.num_drafted > 100


def test_columns_that_are_no_numbers_spoil_no_later_draft(tmp_path: Path) -> None:
    found = long_engine(tmp_path)
    (row,) = prompts([300])
    cache = Cache(found.network)
    feed(found.network, cache, cache.open([0]), [row[:-1]])
    asked = ([CompletionRequest(row[:-1], 9, 0.0)], [[row[-1]]], [3])
    source = RetrievalDrafts(found.network, 96)
    right = source.draft(*asked, cache)
    broken = Cache(found.network)
    feed(found.network, broken, broken.open([0]), [row[:-1]])
    for layer in broken.layers:
        layer[:] = float("nan")
    source.draft([CompletionRequest(row[:-1], 9, 0.0, 1)], [[row[-1]]], [3], broken)
    assert source.draft(*asked, cache) == right


def test_retrieval_follows_an_engine_that_goes_on_with_other_weights(tmp_path: Path) -> None:
    found = long_engine(tmp_path)
    other = write_checkpoint(
        tmp_path / "o", seed=9, max_position_embeddings=1024, num_hidden_layers=3
    )
    requests = [CompletionRequest(row, 12, 1.0, i) for i, row in enumerate(prompts([300, 420]))]
    drafter = Drafter([RetrievalDrafts(found.network, 96)], 3, "always")
    found.completions(requests, drafter)
    found.update_weights(load_model(verify_checkpoint(other)), "new")
    plain = [t.generated for t in found.completions(requests)]
    assert [t.generated for t in found.completions(requests, drafter)] == plain


def test_look_up_below_retrieval_keeps_what_was_written_and_not_what_was_guessed() -> None:
    source = LookupDrafts()
    request = CompletionRequest((3, 4, 5), 9, 1.0)
    source.draft([request], [[6, 7, 8, 9]], [1])  # a guess
    source.draft([request], [[6, 7, 10]], [1])
    assert source._group(0).texts[request] == [3, 4, 5, 6, 7, 10]
    assert source.draft([CompletionRequest((6, 7), 9, 1.0)], [[]], [1]) == [[10]]
    assert source.draft([CompletionRequest((7, 8), 9, 1.0)], [[]], [1]) == [[]]


def test_look_up_takes_a_long_beginning_in_once_for_all_texts_that_share_it() -> None:
    source = LookupDrafts()
    (stem,) = prompts([6000])
    texts = [CompletionRequest((*stem, 3 + i), 9, 1.0, i) for i in range(12)]
    source.draft(texts, [[4]] * 12, [1] * 12)
    group = source._group(0)
    assert group.num_tokens < 2200 and len(group.texts) == 12
    source.draft(texts, [[4, 5]] * 12, [1] * 12)
    assert source._group(0) is group  # nothing was pushed out and taken in again
    found = source.draft([CompletionRequest(stem[-30:-4], 9, 1.0)], [[stem[-4]]], [3])
    assert found == [list(stem[-3:])]


def test_means_of_chunks_follow_their_texts_when_others_end_and_when_they_grow(
    tmp_path: Path,
) -> None:
    found = long_engine(tmp_path)
    rows = prompts([200, 320, 260, 440, 380])
    cache = Cache(found.network)
    feed(found.network, cache, cache.open([0] * len(rows)), [row[:-60] for row in rows])
    requests = [CompletionRequest(row[:-61], 90, 0.0, i) for i, row in enumerate(rows)]
    source = RetrievalDrafts(found.network, 96)
    source.draft(requests, [[row[-61]] for row in rows], [3] * 5, cache)
    kept = cache.close([0, 3]).tolist()
    feed(found.network, cache, np.arange(len(kept)), [rows[i][-60:-1] for i in kept])
    done = [list(rows[i][-61:]) for i in kept]
    source.draft([requests[i] for i in kept], done, [3] * len(kept), cache)
    means = source._means
    assert set(means.texts) == {requests[i] for i in kept}
    for job, i in enumerate(kept):
        row = means.texts.index(requests[i])
        num = means.num_known[row]
        assert num == (len(rows[i]) - 1 - RECENT) // CHUNK
        for layer, found_means in zip(cache.layers, means.layers, strict=True):
            keys = layer[job, : num * CHUNK, : found_means.shape[1]]
            wanted = keys.unflatten(0, (-1, CHUNK)).mean(dim=1).transpose(0, 1)
            torch.testing.assert_close(found_means[row, :, :num], wanted)


@pytest.mark.parametrize(("stride", "choices"), [(1, 5), (2, 3), (9, 1)])
def test_columns_are_chosen_again_after_so_many_tokens(
    tmp_path: Path, stride: int, choices: int
) -> None:
    found = long_engine(tmp_path)
    (row,) = prompts([400])
    cache = Cache(found.network)
    feed(found.network, cache, cache.open([0]), [row[:-1]])
    chosen: list[int] = []

    class Counting(Choice):
        def __call__(self, layer: int, q_RHD: torch.Tensor) -> None:
            chosen.append(layer)
            super().__call__(layer, q_RHD)

    source = RetrievalDrafts(found.network, 96, stride=stride, choice=Counting)
    source.draft([CompletionRequest(row[:-1], 9, 1.0)], [[row[-1]]], [5], cache)
    assert chosen == [0, 1] * choices


def test_what_drafts_in_a_long_text_is_chosen_by_its_length(tmp_path: Path) -> None:
    """A step over 8,192 columns costs four short ones here, a draft by retrieval always half."""
    costs = Costs(
        {1: 1.0, 2: 1.0, 5: 1.2},
        {"model": 0.5, "retrieval": 0.5},
        columns=32,
        column_s=dict.fromkeys((1, 2, 5), 3 / 8160),
        draft_column_s={"model": 1.5 / 8160},
    )
    assert costs.verify_s(1, 8192) == pytest.approx(4.0)
    assert costs.verify_s(1, 10) == 1.0
    assert costs.drafted_s("model", 8192) == pytest.approx(2.0)
    assert costs.drafted_s("retrieval", 8192) == 0.5
    network = long_engine(tmp_path).network
    sources: list[DraftSource] = [ModelDrafts(network, "d", 2**20), RetrievalDrafts(network, 96)]
    drafter = Drafter(sources, 4, costs={1: costs})
    for record in ("model", "retrieval"):
        drafter.record(record).acceptance = 0.9
    assert drafter.plan(1, 8192)[0] is sources[1]
    drafter.record("model").acceptance = drafter.record("retrieval").acceptance = 0.5
    assert drafter.plan(1, 32) == (None, 0)
    assert drafter.plan(1, 8192)[0] is sources[1]


def test_costs_in_a_long_context_are_measured_when_a_long_text_comes(tmp_path: Path) -> None:
    asked: list[int] = []

    def lengthened(num: int, short: Costs) -> Costs:
        asked.append(num)
        return Costs(short.step_s, short.draft_s | {"retrieval": 0.1}, 32, {1: 0.1, 2: 0.1, 5: 0.1})

    short = Costs({1: 1.0, 2: 1.0, 5: 1.0}, {})
    source = RetrievalDrafts(long_engine(tmp_path).network, 96)
    drafter = Drafter([source], 4, costs={1: short, 16: short}, lengthened=lengthened)
    assert drafter.plan(1, 500) == (None, 0)  # nobody has said yet what a draft costs
    assert asked == []
    assert drafter.plan(14, 600)[0] is source
    assert drafter.plan(15, 900)[0] is source
    assert asked == [16]


PUBLISHED, RIGHT = "published", "right"


def law_of_middle(small: np.ndarray, middle: np.ndarray, rule: str) -> np.ndarray:
    """One token that the small model drafts and the middle one judges.

    The published code draws a refused token's successor from the middle law itself instead of
    from what is left of it.
    """
    accepted = np.minimum(small, middle)
    rest = middle if rule == PUBLISHED else np.maximum(middle - small, 0)
    return np.asarray(accepted + (1 - accepted.sum()) * rest / rest.sum())


def law_of_verified(proposal: np.ndarray, claimed: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One token drawn from `proposal`, judged as if it came from `claimed` (Leviathan et al.)."""
    accepted = proposal * np.minimum(1, target / claimed)
    rest = np.maximum(target - claimed, 0)
    return np.asarray(accepted + (1 - accepted.sum()) * rest / rest.sum())


def test_the_published_rule_of_the_hierarchy_is_biased_and_the_papers_is_not() -> None:
    rng = np.random.default_rng(0)
    distances: dict[str, list[float]] = {PUBLISHED: [], RIGHT: []}
    for _ in range(200):
        small, middle, target = rng.dirichlet(np.full(12, 0.5), 3) + 1e-9
        small, middle, target = (x / x.sum() for x in (small, middle, target))
        for rule, found in distances.items():
            proposal = law_of_middle(small, middle, rule)
            law = law_of_verified(proposal, middle, target)
            found.append(float(np.abs(law - target).sum() / 2))
    assert max(distances[RIGHT]) < 1e-12
    assert np.mean(distances[PUBLISHED]) > 0.05


@pytest.mark.parametrize("source", ["all", "retrieval", "hierarchy", "lookup"])
def test_a_host_drafts_by_retrieval_where_the_context_is_long_and_writes_the_same(
    tmp_path: Path, source: str
) -> None:
    long = write_checkpoint(tmp_path / "p", seed=5, max_position_embeddings=1024)
    small = write_checkpoint(tmp_path / "d", seed=5, max_position_embeddings=1024)
    policy = verify_checkpoint(long).ref("policy")
    drafter = verify_checkpoint(small).ref("drafter")
    host = PolicyHost("policy", HostSettings())
    below = PolicyHost("drafter", HostSettings())
    requests = [CompletionRequest(row, 24, 1.0, i) for i, row in enumerate(prompts([40, 400, 620]))]
    plain = host.completions(policy, requests)
    told = Speculation("always", 4, source)
    drafted = host.drafted_completions(policy, drafter, requests, told, below.draft)
    assert [t.generated for t in drafted] == [t.generated for t in plain]
    names = {
        "all": {"model", "lookup", "retrieval"},
        "retrieval": {"retrieval"},
        "hierarchy": {"retrieval over model"},
        "lookup": {"lookup"},
    }
    assert set(host.health()["speculation"]["sources"]) == names[source]


def test_a_context_that_fits_the_budget_twice_is_not_drafted_by_retrieval(tmp_path: Path) -> None:
    policy = verify_checkpoint(write_checkpoint(tmp_path / "p")).ref("policy")
    host = PolicyHost("policy", HostSettings())
    request = [CompletionRequest((3, 4, 5), 24, 1.0)]
    host.drafted_completions(policy, None, request, Speculation("auto", 4), lambda *_: [])
    costs = host.health()["speculation"]["costs_ms"]["1"]
    assert set(costs["draft"]) == {"lookup"}


def test_a_long_text_has_its_costs_measured_and_short_ones_go_on_without(tmp_path: Path) -> None:
    written = write_checkpoint(tmp_path / "p", seed=5, max_position_embeddings=2048)
    policy = verify_checkpoint(written).ref("policy")
    host = PolicyHost("policy", HostSettings())

    def costs(length: int) -> dict[str, Any]:
        request = [CompletionRequest(row, 8, 0.0) for row in prompts([length])]
        host.drafted_completions(policy, None, request, Speculation("auto", 4), lambda *_: [])
        found: dict[str, Any] = host.health()["speculation"]["costs_ms"]["1"]
        return found

    assert costs(40)["step_1000_columns"] == {}
    long = costs(1000)
    assert set(long["step_1000_columns"]) == {"1", "2", "5"}
    assert set(long["draft"]) == {"lookup", "retrieval"}


def test_what_stands_far_back_is_guessed_by_retrieval_and_not_by_a_window() -> None:
    """The embedded policy of `ledger`: one line of 150 is asked for."""
    found = engine(EMBEDDED / "ledger/policy")
    task, tokenizer = Ledger(), Tokenizer(EMBEDDED / "ledger/policy")
    problems = [p for p in task.held_out(24, 0) if p.difficulty == 150]
    requests = [
        CompletionRequest(tuple(tokenizer.encode(p.text)), 40, 0.0, i)
        for i, p in enumerate(problems)
    ]
    acceptance, written = {}, []
    for name, choice in (("retrieval", Choice), ("window", Window)):
        drafter = Drafter([RetrievalDrafts(found.network, choice=choice)], 4, "always")
        written.append([t.generated for t in found.completions(requests, drafter)])
        record = drafter.record("retrieval")
        acceptance[name] = record.num_accepted / record.num_tried
    assert written[0] == written[1]
    right = sum(
        task.answer_of(tokenizer.decode(text.tokens[:-1]).splitlines(keepends=True)) == p.answer
        for text, p in zip(written[0], problems, strict=True)
    )
    assert len(problems) == 8 and right >= 6
    assert acceptance["retrieval"] > 0.85
    assert acceptance["window"] < acceptance["retrieval"] - 0.15
