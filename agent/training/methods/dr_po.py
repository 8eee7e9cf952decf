"""On-policy training from stored states: restarts, critics' rewards, a clipped policy gradient.

DR-PO (Chang et al., arXiv 2404.08495) resets the policy to states of offline data instead of to the
prompt, and optimises from there by PPO. A draw takes trajectories, and of each a state on its way;
the policy of that moment finishes each of them several times. A text's reward is the outcome
critic's score less `kl_weight` times the log-ratio of the text under the policy and under the one
that the training began with. The advantage is that less the mean of its siblings' (leave-one-out,
Ahmadian et al., arXiv 2402.14740) in the place of a value function. Some steps are taken on a draw,
each token's ratio to the policy that wrote it clipped (`clipped`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.weights import load_model
from agent.engine.option_ends import Steps
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.networks.language_model import LanguageModel
from agent.networks.llava import LlavaModel
from agent.training.clipped import CLIP, Clip, clipped_loss
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
    """Of the log-ratio, a token, in the reward."""
    num_epochs: int = 4
    """Steps that are taken on a draw."""
    clip: Clip = CLIP


@dataclass(frozen=True, slots=True)
class GradientReport:
    num_steps: int
    num_examples: int
    first_reward: float
    """Mean over the first tenth of the draws."""
    last_reward: float
    last_loss: float
    divergence: float
    """Estimated KL from the starting policy, nats a token, over the last tenth of the draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrPoJob(LoopJob):
    """The policy from stored states, with the outcome critic's rewards."""

    critic: str
    """Directory of the outcome critic."""
    beside_bytes: ClassVar[float] = 10.0
    """Reference and critic in float32, and what the engine lays out in bfloat16."""
    states: Sequence[StoredState]
    gradient: GradientSettings

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        tokenizer = Tokenizer(parent.path)
        engine = TorchEngine(model, tokenizer.steps, tokenizer.end_ids)
        reward = critic_reward(self.critic, model, tokenizer.end_ids)
        practice = Practice(self.states, engine, reward)
        report = train_from_states(
            model, practice, self.settings, self.gradient, self.seed, progress
        )
        return model, asdict(report) | {"method": "dr-po"}


def critic_reward(path: str, policy: LanguageModel, end_ids: Sequence[int]) -> Reward:
    """The calibrated outcome critic as a reward: the chance that a finished text is right, by what
    the critic alone says. It runs where the policy does, and sees the same pictures.

    A text that was cut off by length is worth nothing.
    """
    critic = verify_checkpoint(path)
    network = load_model(critic, device=str(policy.device))
    if isinstance(network, LlavaModel) and isinstance(policy, LlavaModel):
        network.source = policy.source
    judge = TorchEngine(network, Steps.none, ())
    ends = set(end_ids)

    def reward(texts: Sequence[tuple[tuple[int, ...], int]]) -> list[float]:
        if judge.network.is_critic:
            logits = judge.last_logits([tokens for tokens, _ in texts])[:, 0].tolist()
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
    rng = np.random.default_rng(seed)
    optimizer = Optimizer(model, settings, settings.num_steps)
    reference = model.reference()
    dtype = product_dtype(model, settings)
    starts = _by_trajectory(practice.states)
    rewards: list[float] = []
    losses: list[float] = []
    divergences: list[float] = []
    draw: _Draw | None = None
    for index in range(settings.num_steps):
        if draw is None or index % gradient.num_epochs == 0:
            model.eval()
            practice.engine.update_weights(model, f"step {index}")
            drawn = _drawn(starts, gradient.num_states, rng)
            restart = derive_seed(seed, index, "restart")
            texts = _completed(practice.engine, drawn, gradient, restart)
            scores = practice.reward([(tokens, state.num_prompt) for state, tokens in texts])
            with products_in(dtype, model.device):
                draw = _draw(model, reference, texts, scores, gradient)
            rewards.append(draw.reward)
            divergences.append(draw.divergence)
            model.train()
        with products_in(dtype, model.device):
            logprob, counted = _token_logprobs(model, draw.texts)
        loss = clipped_loss(
            logprob[counted], draw.logprob[counted], draw.advantage[counted], gradient.clip
        )
        loss.backward()
        optimizer.step(index)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise DivergedError(
                f"the loss became {losses[-1]} at step {index + 1} of {settings.num_steps}",
                "lower training.learning_rate",
            )
        if progress is not None and (index % 10 == 9 or index + 1 == settings.num_steps):
            progress(index + 1, settings.num_steps, sum(losses[-10:]) / len(losses[-10:]))
    model.eval()
    return GradientReport(
        settings.num_steps,
        len(practice.states),
        *ends_of(rewards),
        losses[-1],
        ends_of(divergences)[1],
    )


@dataclass(frozen=True, slots=True)
class _Draw:
    """Texts of the policy of one moment, B rows."""

    texts: list[tuple[StoredState, tuple[int, ...]]]
    logprob: Tensor
    """Of each token when it was written, [B, T - 1]."""
    advantage: Tensor
    """Of each row's tokens, [B, T - 1]."""
    reward: float
    """Mean of the critic's scores."""
    divergence: float
    """Estimated KL from the starting policy, nats a token (k3 of Schulman 2020)."""


@torch.no_grad()
def _draw(
    model: LanguageModel,
    reference: LanguageModel,
    texts: list[tuple[StoredState, tuple[int, ...]]],
    scores: Sequence[float],
    gradient: GradientSettings,
) -> _Draw:
    scored = torch.tensor(scores)
    logprob, counted = _token_logprobs(model, texts)
    old, _ = _token_logprobs(reference, texts)
    ratio = (logprob - old).cpu()
    held = scored - gradient.kl_weight * ratio.sum(dim=1)
    advantage = _leave_one_out(held.view(-1, gradient.num_texts)).flatten()
    away = (torch.exp(-ratio) + ratio - 1)[counted.cpu()]
    return _Draw(
        texts,
        logprob,
        advantage.to(logprob.device)[:, None].expand_as(logprob),
        float(scored[torch.isfinite(scored)].mean()),
        float(away.mean()),
    )


def _by_trajectory(states: Sequence[StoredState]) -> list[list[StoredState]]:
    found: dict[int, list[StoredState]] = {}
    for state in states:
        found.setdefault(state.trajectory, []).append(state)
    return list(found.values())


def _drawn(
    starts: Sequence[Sequence[StoredState]], num: int, rng: np.random.Generator
) -> list[StoredState]:
    """A trajectory first and then a state of it, so that long ones weigh no more than others."""
    rows = [starts[i] for i in rng.integers(0, len(starts), num)]
    return [row[int(rng.integers(0, len(row)))] for row in rows]


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
    trusted, and where there is no state to begin from."""
    if lesson.outcome_doubt:
        raise NothingToLearnError(
            "the outcome critic, whose scores are the reward, is not trusted: "
            f"{lesson.outcome_doubt}; "
            "raise critics.num_labelled, or set training.method to sft"
        )
    config = lesson.config
    states = lesson.states()
    if config.disputed_states:
        # Where every step comes to the same, four texts say nothing to each other's credit.
        disputed = {group.given for group in lesson.siblings()}
        states = [s for s in states if s.tokens in disputed]
        if not states:
            raise NothingToLearnError(
                "no state of a kept text is disputed by its search; raise search.simulations, or "
                "set training.disputed_states to false"
            )
    return DrPoJob(
        role="policy",
        parent=lesson.policy.path,
        settings=lesson.settings,
        seed=lesson.seed,
        critic=lesson.outcome.path,
        states=states,
        gradient=GradientSettings(
            num_states=max(1, config.batch_size // config.texts_per_state),
            num_texts=config.texts_per_state,
            kl_weight=config.kl_weight,
            num_epochs=config.draw_epochs,
            clip=Clip(config.clip_below, config.clip_above),
        ),
    )
