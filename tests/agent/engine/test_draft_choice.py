"""Drafts change the speed and nothing else; what is drafted is what pays."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from agent.checkpoints.checkpoint import verify_checkpoint
from agent.engine.draft_choice import Costs, Drafter, Record, expected_speedup, expected_tokens
from agent.engine.drafting import ModelDrafts
from agent.engine.job_cache import Cache
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import CompletionRequest
from agent.engine.torch_engine import TorchEngine
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import PolicyHost, Speculation
from search.errors import CheckpointError
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine


class HalfRight:
    """A drafter with the policy's own weights that spoils every third token it proposes."""

    name = "model"
    least_columns = 0

    def for_short_texts(self) -> "HalfRight":
        return self

    def __init__(self, policy: TorchEngine, spoil: bool = True) -> None:
        self.own = ModelDrafts(policy.network, policy.version, 2**24)
        self.spoil = spoil
        self.calls = 0

    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        self.calls += 1
        drafts = self.own.draft(requests, done, lengths)
        if not self.spoil:
            return drafts
        return [
            [t if (i + self.calls) % 3 else (t + 1) % 16 for i, t in enumerate(draft)]
            for draft in drafts
        ]


DISTRIBUTIONS = {
    "greedy": {"temperature": 0.0},
    "cool": {"temperature": 0.7},
    "hot": {"temperature": 1.3},
    "top-k": {"temperature": 1.0, "top_k": 5},
    "nucleus": {"temperature": 1.1, "top_p": 0.8},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "all": {"temperature": 0.9, "top_k": 9, "top_p": 0.9, "min_p": 0.02},
}


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("length", [1, 3, 7])
def test_a_drafter_changes_no_token_and_no_bit(
    tmp_path: Path, distribution: str, length: int
) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=5))
    requests = [
        CompletionRequest((4 + i, 13, 6, 2), 20, seed=100 + i, **DISTRIBUTIONS[distribution])
        for i in range(9)
    ]
    plain = found.completions(requests)
    source = HalfRight(found)
    drafted = found.completions(requests, Drafter([source], length, "always"))
    assert [t.generated for t in drafted] == [t.generated for t in plain]
    assert source.calls > 0
    assert 0 < sum(t.num_accepted for t in drafted) < sum(t.num_drafted for t in drafted)


def test_a_drafter_equal_to_the_policy_is_always_right(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=6))
    drafter = Drafter([HalfRight(found, spoil=False)], 4, "always")
    texts = found.completions(
        [CompletionRequest((4, 13, 6, 2), 24, 1.0, i) for i in range(6)], drafter
    )
    # What lies behind the end of a text cannot count as right or wrong.
    for text in texts:
        assert text.num_accepted == text.num_drafted or text.generated.stop == "end"
    assert drafter.record("model").acceptance > 0.7


def test_acceptance_is_that_of_coupled_draws(tmp_path: Path) -> None:
    """Gumbel coupling accepts with sum_x 1 / sum_y max(p_y / p_x, q_y / q_x) (Daliri et al.)."""
    policy = engine(write_checkpoint(tmp_path / "p", seed=5))
    other = engine(write_checkpoint(tmp_path / "q", seed=9))
    prefix, num = (4, 13, 6, 2), 4000
    p, q = (torch.softmax(e.next_logprobs([prefix])[0].double(), -1) for e in (policy, other))
    ratio = torch.maximum(p[None] / p[:, None], q[None] / q[:, None])
    wanted = float((1 / ratio.sum(dim=1)).sum())
    requests = [CompletionRequest(prefix, 1, 1.0, i) for i in range(num)]
    ours, theirs = (e.completions(requests) for e in (policy, other))
    agreed = sum(
        a.generated.tokens == b.generated.tokens for a, b in zip(ours, theirs, strict=True)
    )
    deviation = (wanted * (1 - wanted) / num) ** 0.5
    assert abs(agreed / num - wanted) < 4 * deviation
    overlap = float(torch.minimum(p, q).sum())
    assert overlap / (2 - overlap) - 1e-9 <= wanted <= overlap + 1e-9


def test_a_session_that_lost_its_place_drafts_the_same(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=6))
    requests = [CompletionRequest((4 + i, 13, 6, 2), 24, 1.0, i) for i in range(5)]
    done = [list(t.generated.tokens[: 3 + i]) for i, t in enumerate(found.completions(requests))]
    session = ModelDrafts(found.network, "v", 2**24)
    session.draft(requests, [d[:2] for d in done], [4] * 5)  # then some of it turns out wrong
    going_on = session.draft(requests, done, [3, 4, 1, 0, 2])
    fresh = ModelDrafts(found.network, "v", 2**24).draft(requests, done, [3, 4, 1, 0, 2])
    assert going_on == fresh
    assert [len(d) for d in fresh] == [3, 4, 1, 0, 2]


def test_lookup_drafts_what_followed_the_same_tokens_in_the_same_group() -> None:
    source = LookupDrafts()
    first = CompletionRequest((3, 4, 5, 6), 9, 1.0, group=1)
    assert source.draft([first], [[7, 8, 3, 4]], [3]) == [[5, 6, 7]]  # from its own prompt
    sibling = CompletionRequest((3, 4), 9, 1.0, 2, group=1)
    assert source.draft([sibling], [[5, 6]], [2]) == [[7, 8]]
    stranger = CompletionRequest((3, 4), 9, 1.0, 2, group=2)
    assert source.draft([stranger], [[5, 6]], [2]) == [[]]


def test_a_text_written_again_is_drafted_from_where_it_stands() -> None:
    source = LookupDrafts()
    again = CompletionRequest((3, 4), 9, 1.0)
    source.draft([again], [[5, 6, 7, 8, 9]], [3])
    assert source.draft([again], [[5, 6]], [3]) == [[7, 8, 9]]


def test_lookup_alone_changes_nothing_either(tmp_path: Path) -> None:
    found = engine(write_checkpoint(tmp_path / "p", seed=5))
    requests = [CompletionRequest((4, 13, 6, 2), 30, 0.3, i // 2, group=1) for i in range(8)]
    drafted = found.completions(requests, Drafter([LookupDrafts()], 4, "always"))
    assert [t.generated for t in drafted] == [t.generated for t in found.completions(requests)]
    assert sum(t.num_accepted for t in drafted) > 0


def costs(step: float, slope: float, draft: float) -> Costs:
    return Costs({1: step, 2: step + slope, 5: step + 4 * slope}, {"model": draft, "lookup": 0.0})


def test_a_drafter_with_another_vocabulary_is_refused_by_its_numbers(tmp_path: Path) -> None:
    policy = verify_checkpoint(write_checkpoint(tmp_path / "p")).ref("policy")
    drafter = verify_checkpoint(write_checkpoint(tmp_path / "d", vocab_size=20)).ref("drafter")
    host = PolicyHost("policy", HostSettings())
    with pytest.raises(CheckpointError, match="has 20 tokens, the policy 16"):
        host.drafted_completions(
            policy,
            drafter,
            [CompletionRequest((3, 4), 4, 1.0)],
            Speculation("always"),
            lambda *_: [],
        )


class Silent:
    least_columns = 0

    def for_short_texts(self) -> "Silent":
        return self

    def __init__(self, name: str) -> None:
        self.name = name

    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        return [[] for _ in requests]


def test_drafting_switches_itself_off_where_it_does_not_pay() -> None:
    cheap, dear = costs(10.0, 0.5, 0.5), costs(10.0, 9.0, 2.0)
    assert expected_tokens(0.8, 4) == pytest.approx((1 - 0.8**5) / 0.2)
    assert expected_speedup(cheap, "model", 0.8, 4) == pytest.approx((1 - 0.8**5) / 0.2 * 10 / 14)
    assert expected_speedup(cheap, "model", 0.8, 2) == pytest.approx(2.44 * 10 / 12)
    # With drafts for half of the texts both the gain and the cost are halved.
    assert expected_speedup(cheap, "lookup", 0.8, 2, 0.5) == pytest.approx(1.72 * 10 / 10.5)
    drafter = Drafter([Silent("model")], 4, costs={1: cheap, 64: dear})
    drafter.record("model").acceptance = 0.8
    assert drafter.plan(2)[1] == 4
    assert drafter.plan(60) == (None, 0)
    drafter.record("model").acceptance = 0.05
    assert drafter.plan(2) == (None, 0)


def test_the_source_that_is_worth_more_drafts() -> None:
    drafter = Drafter([Silent("model"), Silent("lookup")], 4, costs={1: costs(10.0, 1.0, 1.0)})
    drafter.record("model").acceptance = 0.9
    drafter.record("lookup").acceptance = 0.3
    source, length = drafter.plan(1)
    assert source is not None and source.name == "model" and length == 4
    drafter.record("lookup").acceptance = 0.9
    source, _ = drafter.plan(1)
    assert source is not None and source.name == "lookup"


def test_running_acceptance_counts_tokens_up_to_the_first_wrong_one() -> None:
    record = Record()
    record.note(4, 4, 4)
    record.note(4, 1, 4)
    record.note(0, 0, 4)
    assert (record.num_drafted, record.num_accepted) == (8, 5)
    assert record.accepted_length == 2.5
    for _ in range(500):
        record.note(2, 1, 4)
    assert record.acceptance == pytest.approx(0.5, abs=0.02)
    assert record.coverage == pytest.approx(0.5, abs=0.02)
