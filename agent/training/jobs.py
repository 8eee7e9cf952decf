"""Training jobs as plain functions of plain values, so that they run here or as Ray tasks.

A job reads checkpoints and rows, writes a new checkpoint, and returns where it is. It depends on
its arguments alone: run again after a crash it writes the same weights.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from agent.engine.checkpoint import inspect_checkpoint, load_decoder
from agent.engine.decoder import Decoder
from agent.training.critics import measure_critic, train_critic
from agent.training.drafter import cut_drafter, expected_acceptance
from agent.training.examples import CriticExample, Example, judged_rows, scalar_rows
from agent.training.labelling import Split
from agent.training.optimizer import TrainingSettings
from agent.training.policy import Progress, train_policy
from agent.training.publish import publish
from agent.training.token_critics import measure_token_critic, train_token_critic


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job came to."""

    role: str
    version: str
    path: str
    parent_version: str
    num_bytes: int
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job writes, and with how many threads it runs."""

    folder: str
    threads: int = 1
    device: str = "auto"
    """`auto` takes cuda where the job runs, if there is one."""
    progress_file: str = ""

    def chosen_device(self) -> str:
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"

    def report(self, done: int, total: int, loss: float) -> None:
        if self.progress_file:
            scratch = f"{self.progress_file}.{os.getpid()}"
            Path(scratch).write_text(json.dumps({"done": done, "total": total, "loss": loss}))
            os.replace(scratch, self.progress_file)


def _trained(checkpoint: Any, role: str, parent: str, report: dict[str, Any]) -> Trained:
    return Trained(
        role, checkpoint.version, str(checkpoint.path), parent, checkpoint.num_bytes, report
    )


def policy_job(
    parent_path: str, examples: Sequence[Example], settings: TrainingSettings, seed: int,
    place: Place,
) -> Trained:  # fmt: skip
    """Fine-tune the policy on texts and publish it. Raises DivergedError or NonFiniteError."""
    torch.set_num_threads(place.threads)
    parent = inspect_checkpoint(parent_path)
    decoder = load_decoder(parent, device=place.chosen_device())
    report = asdict(train_policy(decoder, examples, settings, seed, place.report))
    notes = {"report": report, "seed": seed}
    child = publish(decoder, parent, Path(place.folder), "policy", notes)
    return _trained(child, "policy", parent.version, report)


def critic_job(
    role: str, parent_path: str, split: Split, settings: TrainingSettings, seed: int, place: Place
) -> Trained:  # fmt: skip
    """Go on training a critic, measure old and new on the same held-out rows, and publish it."""
    torch.set_num_threads(place.threads)
    parent = inspect_checkpoint(parent_path)
    critic = load_decoder(parent, device=place.chosen_device())
    before = measured_critic(critic, split.held_out)
    report: dict[str, Any] = trained_critic(critic, split, settings, seed, place.report)
    report |= measured_critic(critic, split.held_out)
    report |= {"num_examples": len(split.train), "parent_auc": before["auc"]}
    child = publish(critic, parent, Path(place.folder), role, {"report": report, "seed": seed})
    return _trained(child, role, parent.version, report)


def trained_critic(
    critic: Decoder, split: Split, settings: TrainingSettings, seed: int,
    progress: Progress | None = None,
) -> dict[str, float]:  # fmt: skip
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
    policy_path: str, examples: Sequence[Example], settings: TrainingSettings, seed: int,
    place: Place,
) -> Trained:  # fmt: skip
    """Cut a drafter from the policy's first blocks, distil it on texts, and publish it."""
    torch.set_num_threads(place.threads)
    parent = inspect_checkpoint(policy_path)
    policy = load_decoder(parent, device=place.chosen_device())
    drafter = cut_drafter(policy)
    dev, train = examples[: len(examples) // 10], examples[len(examples) // 10 :]
    report = asdict(train_policy(drafter, train or examples, settings, seed, place.report))
    report["acceptance"] = expected_acceptance(policy, drafter, dev or examples)
    notes = {"report": report, "seed": seed}
    child = publish(drafter, parent, Path(place.folder), "drafter", notes)
    return _trained(child, "drafter", parent.version, report)
