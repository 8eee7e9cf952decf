"""The plain-torch twins against float64 or loops written out."""

import math

import pytest
import torch

from kernels import dispatch, reference
from kernels.noise import gumbel, uniform


@pytest.mark.parametrize(("N", "G", "Q", "C"), [(1, 2, 2, 16), (3, 2, 5, 48), (2, 3, 7, 33)])
def test_tree_attention_sees_what_the_bias_shows(N: int, G: int, Q: int, C: int) -> None:
    generator = torch.Generator().manual_seed(N * 100 + Q)
    D = 8
    q = torch.randn(N, G, Q, D, generator=generator)
    k, v = (torch.randn(N, G, C, D, generator=generator) for _ in range(2))
    seen = torch.rand(N, 1, Q, C, generator=generator) < 0.4
    seen[..., 0] = True
    bias = torch.zeros(N, 1, Q, C).masked_fill(~seen, float("-inf"))
    found = dispatch.tree_attention(q, k, v, bias)
    for n in range(N):
        for g in range(G):
            for i in range(Q):
                keys, values = (x[n, g, seen[n, 0, i]].double() for x in (k, v))
                weights = torch.softmax(keys @ q[n, g, i].double() / math.sqrt(D), 0)
                torch.testing.assert_close(
                    found[n, g, i].double(), weights @ values, atol=1e-5, rtol=1e-4
                )


def test_linear_logprob_is_log_softmax_of_the_product() -> None:
    hidden = torch.randn(5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weight = torch.randn(11, 6, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 10, 3, 3, 7])
    found = dispatch.linear_logprob(hidden, weight, target)
    wanted = torch.log_softmax((hidden.double() @ weight.double().T), -1)[range(5), target]
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    found.sum().backward()
    assert hidden.grad is not None and torch.isfinite(hidden.grad).all()


def test_critic_head_reads_only_the_wanted_places() -> None:
    hidden = torch.arange(24.0).view(2, 3, 4)
    found = reference.critic_head(hidden, torch.ones(4), torch.tensor([1, 0]), torch.tensor([2, 0]))
    assert found.tolist() == [20 + 21 + 22 + 23, 0 + 1 + 2 + 3]


def test_noise_depends_on_seed_position_and_token_alone() -> None:
    seeds = torch.tensor([5, 6, 5, 5])
    positions = torch.tensor([0, 0, 1, 0])
    noise = uniform(seeds, positions, 4)
    assert torch.equal(noise[0], noise[3])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(uniform(seeds[2:3], positions[2:3], 4)[0], noise[2])
    # A wider vocabulary begins with the same numbers.
    assert torch.equal(uniform(seeds, positions, 9)[:, :4], noise)


def test_noise_is_uniform_and_its_argmax_samples_the_law() -> None:
    num = 200_000
    noise = uniform(torch.arange(num), torch.zeros(num, dtype=torch.long), 3)
    assert float(noise.min()) > 0 and float(noise.max()) < 1
    assert noise.mean(dim=0).tolist() == pytest.approx([0.5] * 3, abs=0.004)
    law = torch.tensor([0.7, 0.2, 0.1])
    drawn = (law.log() + gumbel(torch.arange(num), torch.ones(num, dtype=torch.long), 3)).argmax(1)
    counts = torch.bincount(drawn, minlength=3).double()
    chi_square = float((((counts - num * law) ** 2) / (num * law)).sum())
    assert chi_square < 13.8  # p = 0.001 at two degrees of freedom
