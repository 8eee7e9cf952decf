"""What a round's models learn from: labelled texts for the critics, demonstrations to replay."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from agent.context import RunContext, chunks, judged
from agent.engine.checkpoint import inspect_checkpoint
from agent.engine.hosts import ModelRef
from agent.engine.tokenizer import Tokenizer
from agent.evaluation import sample_rollouts
from agent.training.examples import Example
from agent.training.jobs import critic_job
from agent.training.labelling import Labelled, label_rollouts
from agent.training.recipe import (
    critic_settings,
    demonstration_examples,
    policy_settings,
    replay_seed,
)
from agent.workshop import Job
from search.interfaces import Rollout
from search.randomness import derive_seed

CRITIC_ROLES = ("value", "process", "outcome")


class Teacher:
    def __init__(self, context: RunContext) -> None:
        self.context = context

    def critic_jobs(self, refs: Mapping[str, ModelRef], number: int) -> list[Job]:
        """A job for each critic on fresh texts of the policy, where there are labels to learn."""
        labelled = self.label(refs, number)
        base = policy_settings(
            self.context.config.training, inspect_checkpoint(refs["policy"].path)
        )
        settings = critic_settings(self.context.config.critics, base)
        seed = derive_seed(self.context.config.seed, number, "critics") % 2**31
        return [
            (critic_job, (
                role, refs[role].path, labelled.train[role], labelled.held_out[role], settings,
                seed,
            ))
            for role in CRITIC_ROLES
            if labelled.train[role]
        ]  # fmt: skip

    def label(self, refs: Mapping[str, ModelRef], number: int) -> Labelled:
        """Sample the policy on the labelled problems and judge what it wrote."""
        problems = self.context.task.labelled(
            self.context.config.critics.num_labelled, self.context.config.seed
        )
        by_id = {p.id: p for p in problems}
        models = self.context.models_for(refs)
        self.context.progress.stage("labelling", len(problems), "problems")
        groups: list[list[Rollout]] = []
        for part in chunks(problems, self.context.config.hosting.cohort):
            groups += sample_rollouts(
                models, part, self.context.config.critics.samples, 1.0,
                derive_seed(self.context.config.seed, number, "label"),
            )  # fmt: skip
            self.context.progress.update(len(groups))

        def is_correct(rollout: Rollout) -> bool:
            answer = by_id[rollout.state.problem_id].answer
            return bool(judged(self.context.task, rollout.answer, answer))

        def step_is_sound(rollout: Rollout, index: int) -> bool | None:
            state = rollout.state
            return models.check(replace(state, options=state.options[: index + 1])).is_sound

        return label_rollouts(
            [r for group in groups for r in group if r.state.options],
            is_correct, step_is_sound, lambda key: int(key[:4], 16) % 4 == 0,
        )  # fmt: skip

    def replayed(self, refs: Mapping[str, ModelRef], number: int, num_rows: int) -> list[Example]:
        """Demonstrations to mix in; none for a task without any."""
        wanted = round(self.context.config.training.replay_share * num_rows)
        seed = replay_seed(self.context.config.seed, number)
        tokenizer = Tokenizer(Path(refs["policy"].path))
        return demonstration_examples(
            self.context.task, tokenizer, self.context.task.demonstrations(wanted, seed)
        )
