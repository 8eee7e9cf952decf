"""Proof that drafts leave the law of texts alone (L1 to L5), with controls that must fail.

The large numbers come from `scripts.bench.engine --section lossless`; here is the small version.
"""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from agent.engine.draft_choice import LEAST_P, Drafter
from agent.engine.drafting import ModelDrafts
from agent.engine.lookup import LookupDrafts
from agent.engine.requests import Text, TextRequest
from agent.engine.selftest import chi_square, p_value, run_selftest
from agent.engine.verification import (
    Verdict,
    draw,
    law_of_chain,
    law_of_hierarchy,
    law_of_siblings,
    verify_chain,
    verify_siblings,
)
from tests.agent.conftest import write_checkpoint
from tests.agent.engine.engines import engine


class MarkovLaw:
    """Next-token probabilities by the last token; some are 0."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        table = torch.rand(size + 1, size, generator=generator, dtype=torch.float64) ** 3
        table[torch.rand(size + 1, size, generator=generator) < 0.15] = 0
        table[:, 0] += 0.01
        self.table = table / table.sum(dim=1, keepdim=True)

    def __call__(self, done: tuple[int, ...]) -> Tensor:
        return self.table[done[-1] if done else -1]


def plain_law(p: MarkovLaw, num_tokens: int) -> dict[tuple[int, ...], float]:
    law = {(): 1.0}
    for _ in range(num_tokens):
        law = {
            (*done, token): chance * share
            for done, chance in law.items()
            for token, share in enumerate(p(done).tolist())
            if share
        }
    return law


def largest_gap(a: dict[tuple[int, ...], float], b: dict[tuple[int, ...], float]) -> float:
    return max(abs(a.get(k, 0.0) - b.get(k, 0.0)) for k in a.keys() | b.keys())


@pytest.mark.parametrize(("size", "length"), [(5, 1), (7, 2), (5, 3), (11, 1)])
def test_l1_the_chain_rule_has_the_law_p_exactly(size: int, length: int) -> None:
    p, q = MarkovLaw(size, 1), MarkovLaw(size, 2)
    assert largest_gap(law_of_chain(p, q, length, 3), plain_law(p, 3)) < 1e-12


@pytest.mark.parametrize(("size", "num"), [(5, 1), (6, 3), (8, 2), (5, 5)])
def test_l1_the_sibling_rule_has_the_law_p_exactly(size: int, num: int) -> None:
    p, q = MarkovLaw(size, 3)(()), MarkovLaw(size, 4)(())
    assert float((law_of_siblings(p, q, num) - p).abs().max()) < 1e-12


def test_l1_a_hierarchy_of_three_levels_has_the_law_p_exactly() -> None:
    p, middle, small = (MarkovLaw(5, seed) for seed in (5, 6, 7))
    found = law_of_hierarchy(p, middle, small, (1, 2), 3)
    assert largest_gap(found, plain_law(p, 3)) < 1e-12


def test_l1_a_middle_level_that_gives_another_law_as_its_own_is_found_out() -> None:
    """The control: q is said to be the small model's, the tokens are the middle one's."""
    p, middle, small = (MarkovLaw(5, seed) for seed in (5, 6, 7))
    from agent.engine.verification import _unrolled, _verified

    def branches(done: tuple[int, ...]):  # type: ignore[no-untyped-def]
        for token, chance in enumerate(middle(done).tolist()):
            if chance and float(small(done)[token]):
                yield from _verified(p, small, done, (token,), chance)

    assert largest_gap(_unrolled(branches, 2), plain_law(p, 2)) > 1e-3


def chance_of(counts: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> float:
    statistic, df = chi_square(counts, law, sum(counts.values()))
    return p_value(statistic, df)


NUM = 30_000


@pytest.mark.parametrize("control", ["", "no residual", "q is 1", "one uniform"])
def test_l2_the_chain_rules_draws_have_the_law_and_its_controls_have_not(control: str) -> None:
    p, q = MarkovLaw(6, 11), MarkovLaw(6, 12)
    rng = np.random.default_rng(3)
    counts: Counter[tuple[int, ...]] = Counter()
    for uniform in rng.random((NUM, 4)):
        token = draw(q(()), uniform[0])
        told = torch.ones(6, dtype=torch.float64) if control == "q is 1" else q(())
        tests = [uniform[0]] * 3 if control == "one uniform" else uniform[1:].tolist()
        verdict = verify_chain([p(()), p((token,))], [told], [token], tests)
        if control == "no residual" and not verdict.num_accepted:
            verdict = Verdict((draw(p(()), uniform[3]),), 0)
        counts[verdict.tokens[:1]] += 1
    chance = chance_of(counts, plain_law(p, 1))
    assert (chance > LEAST_P) is (not control)


@pytest.mark.parametrize("control", ["", "another q is told", "no residual"])
def test_l2_the_sibling_rules_draws_have_the_law_and_its_controls_have_not(control: str) -> None:
    p, q = MarkovLaw(6, 13)(()), MarkovLaw(6, 14)(())
    rng = np.random.default_rng(4)
    counts: Counter[tuple[int, ...]] = Counter()
    for uniform in rng.random((NUM, 6)):
        first = draw(q, uniform[0])
        rest = q.clone()
        rest[first] = 0
        second = draw(rest, uniform[1])
        told = torch.full_like(q, 1 / 6) if control == "another q is told" else q
        verdict = verify_siblings(p, told, [first, second], uniform[2:5].tolist())
        if control == "no residual" and not verdict.num_accepted:
            verdict = Verdict((draw(p, uniform[5]),), 0)
        counts[verdict.tokens] += 1
    law = {(i,): x for i, x in enumerate(p.tolist()) if x}
    assert (chance_of(counts, law) > LEAST_P) is (not control)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_l3_texts_have_their_joint_law_with_drafts_and_without(
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

    def texts(self, requests: list[TextRequest], drafter: Drafter | None = None) -> list[Text]:
        half = len(requests) // 2
        return [*self.policy.texts(requests[:half]), *self.other.texts(requests[half:])]


def test_l3_the_self_test_refuses_a_sampler_with_another_law(tmp_path: Path) -> None:
    policy = engine(write_checkpoint(tmp_path / "p", seed=5))
    other = engine(write_checkpoint(tmp_path / "q", seed=9))
    found = run_selftest(Biased(policy, other), (4, 13), None, 0.8, 4096)
    assert not found.is_passed
    drafter = Drafter([LookupDrafts()], 2, "always", selftest=lambda _: found)
    requests = [TextRequest((4, 13, 6), 12, 1.0, i) for i in range(4)]
    assert sum(t.num_drafted for t in policy.texts(requests, drafter)) == 0
    greedy = [TextRequest((4, 13, 4, 13, 4, 13), 12, 0.0, i) for i in range(4)]
    policy.texts(greedy, drafter)  # greedy texts may be drafted all the same
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
        (text,) = policy.texts([TextRequest((4 + i, 13, 6), 16, 0.0)], drafter)
        row = [4 + i, 13, 6]
        for token in text.generated.tokens:
            with torch.no_grad():
                logits = decoder.lm_head(decoder(torch.tensor([row])))[0, -1]
            best = logits.topk(2)
            assert token == int(best.indices[0]) or float(best.values[0] - best.values[1]) < 1e-4
            row.append(token)


def test_l5_a_drafter_equal_to_the_target_is_accepted_whole() -> None:
    p = MarkovLaw(6, 11)
    rng = np.random.default_rng(5)
    for uniform in rng.random((500, 5)):
        draft: list[int] = []
        for u in uniform[:2]:
            draft.append(draw(p(tuple(draft)), u))
        laws = [p(tuple(draft[:k])) for k in range(3)]
        assert verify_chain(laws, laws[:2], draft, uniform[2:].tolist()).num_accepted == 2


def test_l5_acceptance_of_the_chain_rule_is_the_overlap_of_the_laws() -> None:
    p, q = MarkovLaw(6, 11)(()), MarkovLaw(6, 12)(())
    rng = np.random.default_rng(6)
    accepted = sum(
        verify_chain([p, p], [q], [draw(q, a)], [b, c]).num_accepted
        for a, b, c in rng.random((20_000, 3))
    )
    overlap = float(torch.minimum(p, q).sum())
    assert abs(accepted / 20_000 - overlap) < 4 * (overlap * (1 - overlap) / 20_000) ** 0.5
