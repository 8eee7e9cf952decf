"""Noise that is a pure function of its counters."""

import pytest
import torch

from kernels.noise import gumbel, uniform


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


def test_noise_is_uniform_and_its_argmax_samples_the_distribution() -> None:
    num = 200_000
    noise = uniform(torch.arange(num), torch.zeros(num, dtype=torch.long), 3)
    assert float(noise.min()) > 0 and float(noise.max()) < 1
    assert noise.mean(dim=0).tolist() == pytest.approx([0.5] * 3, abs=0.004)
    distribution = torch.tensor([0.7, 0.2, 0.1])
    drawn = (
        distribution.log() + gumbel(torch.arange(num), torch.ones(num, dtype=torch.long), 3)
    ).argmax(1)
    counts = torch.bincount(drawn, minlength=3).double()
    chi_square = float((((counts - num * distribution) ** 2) / (num * distribution)).sum())
    assert chi_square < 13.8  # p = 0.001 at two degrees of freedom
