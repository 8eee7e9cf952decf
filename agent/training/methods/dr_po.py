"""On-policy training from stored states: restarts, critics' rewards, a KL-regularised gradient.

DR-PO (Chang et al., arXiv 2404.08495) resets the policy to states of offline data instead of to the
prompt, and optimises from there. Each step draws states on the way of stored trajectories, lets
the policy of that moment finish each of them several times, scores the finished texts with the
outcome critic, and takes one policy-gradient step: the advantage is a text's reward less the mean
of its siblings' (leave-one-out, arXiv 2402.14740), and an unbiased estimate of the divergence from
the policy that the training began with is added at weight `kl_weight` (k3 of Schulman 2020).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.option_ends import Steps
from agent.engine.prefix_cache import Prefix
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.networks.language_model import LanguageModel
from agent.training.examples import StoredState
from agent.training.fit import DivergedError, OnStep, ends_of, product_dtype, products_in
from agent.training.job import LoopJob
from agent.training.lesson import Lesson, NothingToLearnError
from agent.training.logprobs import counted_logprobs
from agent.training.optimizer import Optimizer, TrainingSettings
from critics.heads import log_odds
from search.randomness import derive_seed

Reward = Callable[[Sequence[tuple[tuple[int, ...], int]]], list[float]]
"""Rewards in [0, 1] of (tokens, leading tokens that are the prompt); NaN leaves a text out."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DrPoJob(LoopJob):
    """The policy from stored states, with the outcome critic's rewards."""

    critic: str
    """Directory of the outcome critic."""
    states: Sequence[StoredState]
    gradient: GradientSettings

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        tokenizer = Tokenizer(parent.path)
        engine = TorchEngine(model, tokenizer.steps, tokenizer.end_ids)
        reward = critic_reward(self.critic, str(model.device), tokenizer.end_ids)
        practice = Practice(self.states, engine, reward)
        report = train_from_states(
            model, practice, self.settings, self.gradient, self.seed, progress
        )
        return model, asdict(report) | {"method": "dr-po"}


def critic_reward(path: str, device: str, end_ids: Sequence[int]) -> Reward:
    """The calibrated outcome critic as a reward: the chance that a finished text is right, by what
    the critic alone says.

    A text that was cut off by length is worth nothing.
    """
    critic = verify_checkpoint(path)
    judge = TorchEngine(load_model(critic, device=device), Steps.none, ())
    ends = set(end_ids)

    def reward(texts: Sequence[tuple[tuple[int, ...], int]]) -> list[float]:
        if judge.network.is_critic:
            logits = judge.last_logits([Prefix(tokens) for tokens, _ in texts])[:, 0].tolist()
        else:
            requests = [ScoreRequest(tokens, num_prompt) for tokens, num_prompt in texts]
            logits = [log_odds(x) for x in judge.tail_logprobs(requests)]
        return [
            critic.calibration_alone.apply(logit) if tokens[-1] in ends else 0.0
            for (tokens, _), logit in zip(texts, logits, strict=True)
        ]

    return reward


@dataclass(frozen=True, slots=True)
class Practice:
    """Where texts begin, what writes them and what judges them."""

    states: Sequence[StoredState]
    engine: TorchEngine
    """Generates with the model's weights, and is given each new version."""
    reward: Reward


def train_from_states(
    model: LanguageModel,
    practice: Practice,
    settings: TrainingSettings,
    gradient: GradientSettings,
    seed: int,
    progress: OnStep | None = None,
) -> GradientReport:
    """Train in place. The same arguments give the same weights. Raises DivergedError."""
    engine, states, reward = practice.engine, practice.states, practice.reward
    rng = np.random.default_rng(seed)
    optimizer = Optimizer(model, settings, settings.num_steps)
    reference = model.reference()
    dtype = product_dtype(model, settings)
    rewards: list[float] = []
    losses: list[float] = []
    divergences: list[float] = []
    for index in range(settings.num_steps):
        model.eval()
        engine.update_weights(model, f"step {index}")
        drawn = [states[i] for i in rng.integers(0, len(states), gradient.num_states)]
        texts = _completed(engine, drawn, gradient, derive_seed(seed, index, "restart"))
        found = torch.tensor(reward([(tokens, s.num_prompt) for s, tokens in texts]))
        model.train()
        rewards.append(float(found[torch.isfinite(found)].mean()))
        advantage = _leave_one_out(found.view(-1, gradient.num_texts)).flatten()
        with products_in(dtype, model.device):
            logprob, counted = _token_logprobs(model, texts)
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
    model.eval()
    return GradientReport(
        settings.num_steps, len(states), *ends_of(rewards), losses[-1], ends_of(divergences)[1]
    )


def _completed(
    engine: TorchEngine, states: Sequence[StoredState], gradient: GradientSettings, seed: int
) -> list[tuple[StoredState, tuple[int, ...]]]:
    requests = [
        CompletionRequest(s.tokens, gradient.max_tokens, 1.0, derive_seed(seed, i, k))
        for i, s in enumerate(states)
        for k in range(gradient.num_texts)
    ]
    texts = engine.completions(requests)
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
    model: LanguageModel, texts: Sequence[tuple[StoredState, tuple[int, ...]]]
) -> tuple[Tensor, Tensor]:
    """log p of the completions' tokens, 0 elsewhere, and where they are, [B, T - 1]."""
    rows, given = [tokens for _, tokens in texts], [len(s.tokens) for s, _ in texts]
    found = counted_logprobs(model, rows, given)
    return found.per_token(), found.mask_BT


def job_of(lesson: Lesson) -> DrPoJob:
    """Raises NothingToLearnError where the outcome critic, whose scores are the reward, is not
    trusted."""
    if lesson.outcome_doubt:
        raise NothingToLearnError(
            "the outcome critic, whose scores are the reward, is not trusted: "
            f"{lesson.outcome_doubt}; "
            "raise critics.num_labelled, or set training.method to sft"
        )
    config = lesson.config
    return DrPoJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings,
        seed=lesson.seed,
        critic=lesson.outcome.path,
        states=lesson.states(),
        gradient=GradientSettings(
            num_states=max(1, config.batch_size // config.texts_per_state),
            num_texts=config.texts_per_state,
            kl_weight=config.kl_weight,
        ),
    )
