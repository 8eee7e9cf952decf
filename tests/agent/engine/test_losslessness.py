"""Proof that drafts leave the distribution of texts alone (L2 to L4), with controls that must fail.

The large numbers come from `scripts.bench.engine --section lossless`; here is the small version.
"""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agent.engine.draft_choice import LEAST_P, Drafter
from agent.engine.drafting import ModelDrafts
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import Completion, CompletionRequest
from agent.engine.sampling import SamplingParameters
from agent.engine.selftest import chi_square, p_value, run_selftest
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine


def markov(size: int, seed: int) -> Tensor:
    """Next-token probabilities [last token or -1 for none, token]; some are 0."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(size + 1, size, generator=generator, dtype=torch.float64) ** 3
    table[torch.rand(size + 1, size, generator=generator) < 0.15] = 0
    table[:, 0] += 0.01
    return table / table.sum(dim=1, keepdim=True)


def exact_distribution(
    p: Tensor, temperature: float, num_tokens: int
) -> dict[tuple[int, ...], float]:
    """Joint probabilities of all texts, by enumeration."""
    processed = p ** (1 / temperature)
    processed = processed / processed.sum(dim=1, keepdim=True)
    distribution = {(): 1.0}
    for _ in range(num_tokens):
        distribution = {
            (*done, token): chance * share
            for done, chance in distribution.items()
            for token, share in enumerate(processed[done[-1] if done else -1].tolist())
            if share
        }
    return distribution


def drafted_completions(p: Tensor, q: Tensor, temperature: float, num: int, control: str) -> Tensor:
    """Texts [num, 3] of the engine's rule: two tokens drafted by q, then p goes on alone."""
    parameters = SamplingParameters.of(
        [CompletionRequest((), 3, temperature, i) for i in range(num)], torch.device("cpu")
    )
    nothing, none = torch.full((num, 1), -1), torch.empty((num, 0), dtype=torch.long)

    def written(table: Tensor, last_NQ: Tensor, draft_NK: Tensor, place: int) -> tuple[Tensor, ...]:
        position = 0 if control == "one noise for all places" else place
        found = parameters.choose(
            table.float().log()[last_NQ], draft_NK, torch.full((num,), position)
        )
        return found.tokens, found.num_accepted

    first, _ = written(q, nothing, none, 0)
    second, _ = written(q, first, none, 1)
    draft = torch.cat((first, second), dim=1)
    tokens, accepted = written(p, torch.cat((nothing, draft), dim=1), draft, 0)
    assert set(accepted.tolist()) == {0, 1, 2}
    if control == "a wrong draft stands":
        tokens[:, :2] = draft
    for place in (1, 2):
        alone, _ = written(p, tokens[:, place - 1 : place], none, place)
        tokens[:, place] = torch.where(accepted < place, alone[:, 0], tokens[:, place])
    return tokens


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("control", ["", "a wrong draft stands", "one noise for all places"])
def test_l2_what_the_engines_rule_writes_has_the_exact_distribution_and_its_controls_have_not(
    control: str, temperature: float
) -> None:
    p, q = markov(6, 11), markov(6, 12)
    texts = drafted_completions(p, q, temperature, 30_000, control)
    counts = Counter(map(tuple, texts.tolist()))
    statistic, df = chi_square(counts, exact_distribution(p, temperature, 3), 30_000)
    assert df > 30
    assert (p_value(statistic, df) > LEAST_P) is (not control)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_l3_texts_have_their_joint_distribution_with_drafts_and_without(
    tmp_path: Path, temperature: float
) -> None:
    policy = engine(write_checkpoint(tmp_path / "p", seed=5))
    other = engine(write_checkpoint(tmp_path / "q", seed=9))
    source = ModelDrafts(other.network, "q", 2**24)
    for drafter in (None, Drafter([source], 2, "always"), Drafter([LookupDrafts()], 2, "always")):
        found = run_selftest(policy, (4, 13), drafter, temperature, 4096)
        assert found.is_passed, found.describe()
        assert found.df > 10
        assert (found.num_drafted > 0) is (drafter is not None)


class Biased:
    """An engine that takes the drafter's word for it: what a wrong acceptance rule comes to."""

    def __init__(self, policy, other) -> None:  # type: ignore[no-untyped-def]
        self.policy, self.other, self.ends = policy, other, policy.ends

    def next_logprobs(self, rows):  # type: ignore[no-untyped-def]
        return self.policy.next_logprobs(rows)

    def completions(
        self, requests: list[CompletionRequest], drafter: Drafter | None = None
    ) -> list[Completion]:
        half = len(requests) // 2
        return [*self.policy.completions(requests[:half]), *self.other.completions(requests[half:])]


def test_l3_the_self_test_refuses_a_sampler_with_another_distribution(tmp_path: Path) -> None:
    policy = engine(write_checkpoint(tmp_path / "p", seed=5))
    other = engine(write_checkpoint(tmp_path / "q", seed=9))
    found = run_selftest(Biased(policy, other), (4, 13), None, 0.8, 4096)
    assert not found.is_passed
    drafter = Drafter([LookupDrafts()], 2, "always", selftest=lambda _: found)
    requests = [CompletionRequest((4, 13, 6), 12, 1.0, i) for i in range(4)]
    assert sum(t.num_drafted for t in policy.completions(requests, drafter)) == 0
    greedy = [CompletionRequest((4, 13, 4, 13, 4, 13), 12, 0.0, i) for i in range(4)]
    policy.completions(greedy, drafter)  # greedy texts may be drafted all the same
    assert drafter.record("lookup").num_drafted > 0


def test_l4_greedy_texts_are_those_of_plain_decoding(tmp_path: Path) -> None:
    """Token by token against whole forwards of the training form; a tie may go either way."""
    path = write_checkpoint(tmp_path / "p", seed=5)
    from agent.checkpoints.checkpoint import verify_checkpoint
    from agent.checkpoints.weights import load_model

    decoder = load_model(verify_checkpoint(path))
    policy = engine(path)
    drafter = Drafter([ModelDrafts(policy.network, "p", 2**24)], 4, "always")
    for i in range(4):
        (text,) = policy.completions([CompletionRequest((4 + i, 13, 6), 16, 0.0)], drafter)
        row = [4 + i, 13, 6]
        for token in text.generated.tokens:
            with torch.no_grad():
                logits = decoder.lm_head(decoder(torch.tensor([row])))[0, -1]
            best = logits.topk(2)
            assert token == int(best.indices[0]) or float(best.values[0] - best.values[1]) < 1e-4
            row.append(token)


def test_no_bit_of_a_text_depends_on_how_others_of_its_batch_are_sampled(tmp_path: Path) -> None:
    """Not on their temperatures, nor on their filters."""
    policy = engine(write_checkpoint(tmp_path / "p", seed=5))
    kinds: tuple[dict[str, float], ...] = (
        {"temperature": 0.0},
        {"temperature": 1.0},
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 5},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.05},
    )
    asked = [
        CompletionRequest((3, 4, 5, 6 + i % 4), 12, seed=i, **kinds[i % len(kinds)])  # type: ignore[arg-type]
        for i in range(24)
    ]
    alone = [policy.completions([request])[0].generated for request in asked]
    assert [c.generated for c in policy.completions(asked)] == alone
