"""On-policy training from stored states: restarts, critics' rewards, a KL-regularised gradient.

DR-PO (Chang et al., arXiv 2404.08495) resets the policy to states of offline data instead of to the
prompt, and optimises from there. Each step draws states on the way of stored trajectories, lets
the policy of that moment finish each of them several times, scores the finished texts with the
outcome critic, and takes one policy-gradient step: the advantage is a text's reward less the mean
of its siblings' (leave-one-out, arXiv 2402.14740), and an unbiased estimate of the divergence from
the policy that the training began with is added at weight `kl_weight` (k3 of Schulman 2020).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from agent.engine.batch import padded
from agent.engine.requests import TextRequest
from agent.engine.torch_engine import TorchEngine
from agent.networks.llama import Decoder
from agent.training.fit import DivergedError, Progress, ends_of
from agent.training.optimizer import Optimizer, TrainingSettings
from kernels import dispatch
from search.randomness import derive_seed

Reward = Callable[[Sequence[tuple[tuple[int, ...], int]]], list[float]]
"""Rewards in [0, 1] of (tokens, leading tokens that are the prompt); NaN leaves a text out."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """A beginning of a kept trajectory."""

    tokens: tuple[int, ...]
    num_prompt: int


@dataclass(frozen=True, slots=True)
class GradientSettings:
    num_states: int = 16
    """Different states of one step."""
    num_texts: int = 4
    """Completions of each state; at least two."""
    max_tokens: int = 128
    """Of a completion."""
    kl_weight: float = 0.05


@dataclass(frozen=True, slots=True)
class GradientReport:
    num_steps: int
    num_examples: int
    first_reward: float
    """Mean over the first tenth of the steps."""
    last_reward: float
    last_loss: float
    divergence: float
    """Estimated KL from the starting policy, nats a token, over the last tenth."""


def train_policy_gradient(
    decoder: Decoder,
    engine: TorchEngine,
    states: Sequence[StoredState],
    reward: Reward,
    settings: TrainingSettings,
    gradient: GradientSettings,
    seed: int,
    progress: Progress | None = None,
) -> GradientReport:
    """Train in place. `engine` generates with the decoder's weights and is given each new version.

    The same arguments give the same weights. Raises DivergedError.
    """
    rng = np.random.default_rng(seed)
    optimizer = Optimizer(decoder, settings, settings.num_steps)
    reference = copy.deepcopy(decoder).eval().requires_grad_(False)
    rewards: list[float] = []
    losses: list[float] = []
    divergences: list[float] = []
    for index in range(settings.num_steps):
        decoder.eval()
        engine.update_weights(decoder, f"step {index}")
        drawn = [states[i] for i in rng.integers(0, len(states), gradient.num_states)]
        texts = _completed(engine, drawn, gradient, derive_seed(seed, index, "restart"))
        found = torch.tensor(reward([(tokens, s.num_prompt) for s, tokens in texts]))
        decoder.train()
        rewards.append(float(found[torch.isfinite(found)].mean()))
        advantage = _leave_one_out(found.view(-1, gradient.num_texts)).flatten()
        logprob, counted = _token_logprobs(decoder, texts)
        with torch.no_grad():
            old, _ = _token_logprobs(reference, texts)
        ratio = old - logprob
        divergence = torch.exp(ratio) - ratio - 1  # k3
        advantage = advantage.to(logprob.device)[:, None]
        per_token = -advantage * logprob + gradient.kl_weight * divergence
        loss = per_token[counted].mean()
        loss.backward()
        optimizer.step(index)
        losses.append(float(loss.detach()))
        divergences.append(float(divergence.detach()[counted].mean()))
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"the loss became {losses[-1]} at step {index + 1} of {settings.num_steps}",
                "lower training.learning_rate",
            )
        if progress is not None and (index % 10 == 9 or index + 1 == settings.num_steps):
            progress(index + 1, settings.num_steps, sum(losses[-10:]) / len(losses[-10:]))
    decoder.eval()
    return GradientReport(
        settings.num_steps, len(states), *ends_of(rewards), losses[-1], ends_of(divergences)[1]
    )


def _completed(
    engine: TorchEngine, states: Sequence[StoredState], gradient: GradientSettings, seed: int
) -> list[tuple[StoredState, tuple[int, ...]]]:
    requests = [
        TextRequest(s.tokens, gradient.max_tokens, 1.0, derive_seed(seed, i, k))
        for i, s in enumerate(states)
        for k in range(gradient.num_texts)
    ]
    texts = engine.texts(requests)
    return [
        (states[n // gradient.num_texts], r.prefix + t.generated.tokens)
        for n, (r, t) in enumerate(zip(requests, texts, strict=True))
    ]


def _leave_one_out(reward_SG: Tensor) -> Tensor:
    """Reward less the mean of the other texts of the state; 0 where a reward is missing."""
    is_there = torch.isfinite(reward_SG)
    filled = torch.where(is_there, reward_SG, 0.0)
    count = is_there.sum(dim=1, keepdim=True)
    others = (filled.sum(dim=1, keepdim=True) - filled) / (count - 1).clamp(min=1)
    return torch.where(is_there & (count > 1), filled - others, 0.0)


def _token_logprobs(
    decoder: Decoder, texts: Sequence[tuple[StoredState, tuple[int, ...]]]
) -> tuple[Tensor, Tensor]:
    """log p of the completions' tokens, 0 elsewhere, and where they are, [B, T - 1]."""
    device = decoder.model.norm.weight.device
    tokens_BT, lengths_B = padded([tokens for _, tokens in texts])
    given_B = torch.tensor([len(s.tokens) for s, _ in texts])
    place_T = torch.arange(1, tokens_BT.shape[1])
    counted = ((place_T >= given_B[:, None]) & (place_T < lengths_B[:, None])).to(device)
    tokens_BT = tokens_BT.to(device)
    hidden = decoder(tokens_BT)[:, :-1][counted]
    found = dispatch.linear_logprob(
        hidden, decoder.lm_head.weight, tokens_BT[:, 1:][counted]
    ).logprob
    zeros = torch.zeros(counted.shape, device=device)
    return zeros.masked_scatter(counted, found.float()), counted
