"""The methods by name and trainer: a new one is a file and a line here."""

from collections.abc import Callable

from agent.training.job import TrainingJob
from agent.training.lesson import Lesson
from agent.training.methods import dpo, dr_po, sft, tree_pg, trl_dpo, trl_sft

METHODS: dict[tuple[str, str], Callable[[Lesson], TrainingJob]] = {
    ("sft", "own"): sft.job_of,
    ("sft", "trl"): trl_sft.job_of,
    ("dpo", "own"): dpo.job_of,
    ("dpo", "trl"): trl_dpo.job_of,
    ("tr-dpo", "own"): dpo.job_of,
    ("dr-po", "own"): dr_po.job_of,
    ("tree-pg", "own"): tree_pg.job_of,
}
"""By `training.method` and `training.trainer`; what is missing is refused with the settings."""


def policy_job(lesson: Lesson) -> TrainingJob:
    """The policy's job of a round. Raises NothingToLearnError."""
    return METHODS[lesson.config.method, lesson.config.trainer](lesson)
