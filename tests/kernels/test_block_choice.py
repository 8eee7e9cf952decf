"""Tokens chosen by blocks are exact samples that depend on seed and position alone."""

import pytest
import torch

from kernels import block_choice, dispatch, reference

NONE = torch.empty((0, 0), dtype=torch.long)


def chosen(z_RV: torch.Tensor, seeds: torch.Tensor, temperature: float = 1.0, place: int = 0):
    R = len(z_RV)
    return block_choice.verify_draft(
        z_RV[:, None],
        torch.empty((R, 0), dtype=torch.long),
        torch.full((R,), temperature),
        seeds,
        torch.full((R,), place),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("V", [150, 256])
def test_choices_have_the_distribution_that_they_are_drawn_from(temperature: float, V: int) -> None:
    num = 40_000
    z = torch.randn(V, generator=torch.Generator().manual_seed(V)) * 2
    found = chosen(z.expand(num, V), torch.arange(num), temperature).tokens[:, 0]
    expected = torch.softmax(z.double() / temperature, 0) * num
    counts = torch.bincount(found, minlength=V).double()
    large = expected > 5
    seen = torch.cat((counts[large], counts[~large].sum()[None]))
    wanted = torch.cat((expected[large], expected[~large].sum()[None]))
    statistic = float(((seen - wanted) ** 2 / wanted.clamp(min=1e-9)).sum())
    df = len(seen) - 1
    assert statistic < df + 5 * (2 * df) ** 0.5  # five standard deviations of chi-square


def test_a_choice_depends_on_its_seed_and_position_alone() -> None:
    z = torch.randn(40, 9_000, generator=torch.Generator().manual_seed(1))
    seeds = torch.arange(40)
    whole = chosen(z, seeds).tokens
    alone = torch.cat([chosen(z[i : i + 1], seeds[i : i + 1]).tokens for i in range(40)])
    assert torch.equal(whole, alone)
    assert not torch.equal(whole, chosen(z, seeds + 100).tokens)
    assert not torch.equal(whole, chosen(z, seeds, place=1).tokens)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_those_of_the_whole_softmax(
    temperature: float, dtype: torch.dtype
) -> None:
    z = (torch.randn(30, 8_201, generator=torch.Generator().manual_seed(2)) * 4).to(dtype)
    found = chosen(z, torch.arange(30), temperature)
    raw = torch.log_softmax(z.double(), -1).gather(1, found.tokens)
    assert torch.allclose(found.logprob.double(), raw, atol=1e-5)
    if temperature == 0:
        assert torch.equal(found.tokens[:, 0], z.float().argmax(-1))
        assert torch.equal(found.processed_logprob, torch.zeros(30, 1))
        return
    own = torch.log_softmax(z.double() / temperature, -1).gather(1, found.tokens)
    assert torch.allclose(found.processed_logprob.double(), own, atol=1e-5)


def test_rows_of_several_temperatures_get_what_each_gets_alone() -> None:
    z = torch.randn(3, 9_000, generator=torch.Generator().manual_seed(3))
    seeds, none = torch.arange(3), torch.empty((3, 0), dtype=torch.long)
    mixed = block_choice.verify_draft(
        z[:, None], none, torch.tensor([0.0, 0.5, 1.0]), seeds, torch.zeros(3, dtype=torch.long)
    )
    for i, temperature in enumerate((0.0, 0.5, 1.0)):
        alone = chosen(z[i : i + 1], seeds[i : i + 1], temperature)
        for one, other in zip(mixed, alone, strict=True):
            assert torch.equal(one[i : i + 1], other)


def test_drafts_are_kept_as_far_as_they_agree() -> None:
    z = torch.randn(4, 3, 8_192, generator=torch.Generator().manual_seed(4))
    given = (torch.ones(4), torch.arange(4), torch.zeros(4, dtype=torch.long))
    none = torch.empty((4, 0), dtype=torch.long)
    own = block_choice.verify_draft(z, none, *given).tokens
    draft = own[:, :2].clone()
    draft[1, 0] += 1
    draft[2, 1] = -1
    found = block_choice.verify_draft(z, draft, *given)
    assert torch.equal(found.tokens, own)
    assert found.num_accepted.tolist() == [2, 0, 1, 2]


def test_large_vocabularies_alone_are_chosen_by_blocks() -> None:
    for V, rule in ((8_191, reference), (8_192, block_choice)):
        z = torch.randn(5, 1, V, generator=torch.Generator().manual_seed(5))
        given = (torch.ones(5), torch.arange(5), torch.zeros(5, dtype=torch.long))
        none = torch.empty((5, 0), dtype=torch.long)
        found = dispatch.verify_draft(z, none, *given)
        assert torch.equal(found.tokens, rule.verify_draft(z, none, *given).tokens)
