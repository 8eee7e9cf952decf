"""Training jobs as plain functions of plain values, so that they run here or as Ray tasks.

A job reads checkpoints and rows, writes a new checkpoint, and returns where it is. It depends on
its arguments alone: run again after a crash it writes the same weights.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint, inspect_checkpoint, load_decoder
from agent.checkpoints.publish import publish
from agent.engine.option_ends import Steps
from agent.engine.requests import ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.networks.llama import Decoder
from agent.training.critics import measure_critic, read_calibration, train_critic
from agent.training.drafter import cut_drafter, expected_acceptance
from agent.training.examples import CriticExample, Example, judged_rows, scalar_rows
from agent.training.fit import Progress
from agent.training.labelling import Split
from agent.training.optimizer import TrainingSettings
from agent.training.policy import train_policy
from agent.training.policy_gradient import GradientSettings, StoredState, train_policy_gradient
from agent.training.preference import PairExample, PreferenceSettings, train_preference
from agent.training.ranks import rank
from agent.training.token_critics import measure_token_critic, train_token_critic
from critics.heads import log_odds


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job came to."""

    role: str
    version: str
    path: str
    parent_version: str
    num_bytes: int
    report: dict[str, Any]
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss of the last steps), as far as the job reported it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job writes, and with how many threads it runs."""

    folder: str
    threads: int = 1
    device: str = "auto"
    """`auto` takes cuda where the job runs, if there is one."""
    progress_file: str = ""
    job_id: str = ""
    """Tells the jobs of one run apart in file names."""

    def chosen_device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def report(self, done: int, total: int, loss: float) -> None:
        if self.progress_file:
            scratch = f"{self.progress_file}.{os.getpid()}"
            Path(scratch).write_text(json.dumps({"done": done, "total": total, "loss": loss}))
            os.replace(scratch, self.progress_file)


class Curve:
    """Passes a job's progress on to its place, and keeps it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.points: list[tuple[int, float]] = []

    def report(self, done: int, total: int, loss: float) -> None:
        self.points.append((done, loss))
        self.place.report(done, total, loss)


def policy_job(
    parent_path: str,
    examples: Sequence[Example],
    dev: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    place: Place,
) -> Trained:
    """Fine-tune the policy on texts and publish it. Raises DivergedError or NonFiniteError."""
    parent, decoder = _opened(parent_path, place)
    curve = Curve(place)
    report = train_policy(decoder, examples, settings, seed, curve.report, dev)
    return _published(
        decoder, parent, "policy", asdict(report) | {"method": "sft"}, seed, place, curve
    )


def preference_job(
    parent_path: str,
    pairs: Sequence[PairExample],
    texts: Sequence[Example],
    settings: TrainingSettings,
    preference: PreferenceSettings,
    seed: int,
    place: Place,
) -> Trained:
    """Train the policy on pairs (DPO, TR-DPO), and on texts beside them, and publish it."""
    parent, decoder = _opened(parent_path, place)
    curve = Curve(place)
    report = train_preference(decoder, pairs, texts, settings, preference, seed, curve.report)
    method = "dpo" if preference.reference_update == "none" else "tr-dpo"
    return _published(
        decoder, parent, "policy", asdict(report) | {"method": method}, seed, place, curve
    )


def gradient_job(
    parent_path: str,
    critic_path: str,
    states: Sequence[StoredState],
    settings: TrainingSettings,
    gradient: GradientSettings,
    seed: int,
    place: Place,
) -> Trained:
    """Train the policy from stored states with the outcome critic's rewards (DR-PO)."""
    parent, decoder = _opened(parent_path, place)
    curve = Curve(place)
    critic = inspect_checkpoint(critic_path)
    judge = TorchEngine(load_decoder(critic, device=place.chosen_device()), Steps.none, ())
    calibration = read_calibration(critic.notes)
    tokenizer = Tokenizer(parent.path)
    ends = set(tokenizer.end_ids)

    def reward(texts: Sequence[tuple[tuple[int, ...], int]]) -> list[float]:
        """The chance that a finished text is right; one cut off by length is worth nothing."""
        if judge.network.is_critic:
            logits = judge.last_logits([tokens for tokens, _ in texts])[:, 0].tolist()
        else:
            requests = [ScoreRequest(tokens, num_prompt) for tokens, num_prompt in texts]
            logits = [log_odds(x) for x in judge.tail_logprobs(requests)]
        return [
            calibration.apply(logit) if tokens[-1] in ends else 0.0
            for (tokens, _), logit in zip(texts, logits, strict=True)
        ]

    engine = TorchEngine(decoder, tokenizer.steps, tokenizer.end_ids)
    report = train_policy_gradient(
        decoder, engine, states, reward, settings, gradient, seed, curve.report
    )
    return _published(
        decoder, parent, "policy", asdict(report) | {"method": "dr-po"}, seed, place, curve
    )


def _opened(path: str, place: Place) -> tuple[Checkpoint, Decoder]:
    torch.set_num_threads(place.threads)
    parent = inspect_checkpoint(path)
    return parent, load_decoder(parent, device=place.chosen_device())


def _published(
    decoder: Decoder,
    parent: Checkpoint,
    role: str,
    report: dict[str, Any],
    seed: int,
    place: Place,
    curve: Curve,
) -> Trained:
    if rank() != 0:  # of several processes with the same weights the first one writes them
        return Trained(role, "", "", parent.version, 0, report)
    child = publish(decoder, parent, Path(place.folder), role, {"report": report, "seed": seed})
    return Trained(
        role, child.version, str(child.path), parent.version, child.num_bytes, report, curve.points
    )


def critic_job(
    role: str, parent_path: str, split: Split, settings: TrainingSettings, seed: int, place: Place
) -> Trained:
    """Go on training a critic, measure old and new on the same held-out rows, and publish it."""
    parent, critic = _opened(parent_path, place)
    curve = Curve(place)
    before = measured_critic(critic, split.held_out)
    report: dict[str, Any] = trained_critic(critic, split, settings, seed, curve.report)
    report |= measured_critic(critic, split.held_out)
    report |= {"num_examples": len(split.train), "parent_auc": before["auc"]}
    return _published(critic, parent, role, report, seed, place, curve)


def trained_critic(
    critic: Decoder,
    split: Split,
    settings: TrainingSettings,
    seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train a critic of either form in place; the report of its losses."""
    if critic.is_critic:
        return train_critic(
            critic, scalar_rows(split.train), scalar_rows(split.held_out), settings, seed, progress
        )
    return train_token_critic(
        critic, judged_rows(split.train), judged_rows(split.held_out), settings, seed, progress
    )


def measured_critic(critic: Decoder, held_out: Sequence[CriticExample]) -> dict[str, Any]:
    if critic.is_critic:
        return measure_critic(critic, scalar_rows(held_out))
    return measure_token_critic(critic, judged_rows(held_out))


def drafter_job(
    policy_path: str,
    examples: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    place: Place,
) -> Trained:
    """Cut a drafter from the policy's first blocks, distil it on texts, and publish it."""
    parent, policy = _opened(policy_path, place)
    curve = Curve(place)
    drafter = cut_drafter(policy)
    dev, train = examples[: len(examples) // 10], examples[len(examples) // 10 :]
    report = asdict(train_policy(drafter, train or examples, settings, seed, curve.report))
    report["acceptance"] = expected_acceptance(policy, drafter, dev or examples)
    return _published(drafter, parent, "drafter", report, seed, place, curve)
