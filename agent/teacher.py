"""What a round's models learn from: labelled texts for the critics, demonstrations to replay."""

from collections.abc import Mapping
from pathlib import Path

from agent.context import RunContext
from agent.engine.checkpoint import inspect_checkpoint
from agent.engine.hosts import ModelRef
from agent.engine.tokenizer import Tokenizer
from agent.examinee import Examinee
from agent.training.examples import Example
from agent.training.jobs import critic_job
from agent.training.labelling import Labelled
from agent.training.recipe import (
    critic_settings,
    demonstration_examples,
    policy_settings,
    replay_seed,
)
from agent.workshop import Job
from search.randomness import derive_seed

CRITIC_ROLES = ("value", "process", "outcome")


class Teacher:
    def __init__(self, context: RunContext) -> None:
        self.context = context

    def critic_jobs(
        self, refs: Mapping[str, ModelRef], number: int, labelled: Labelled
    ) -> list[Job]:
        """A job for each critic, where there are labels to learn."""
        base = policy_settings(
            self.context.config.training, inspect_checkpoint(refs["policy"].path)
        )
        seed = derive_seed(self.context.config.seed, number, "critics") % 2**31
        jobs: list[Job] = []
        for role in CRITIC_ROLES:
            split = labelled.of(role)
            if len(split.classes) < 2:
                found = (
                    "no labels"
                    if not split.classes
                    else f"labels of one class only ({'good' if True in split.classes else 'bad'})"
                )
                self.context.progress.say(
                    f"warning: {found} for the {role} critic; it stays as it is (raise "
                    "critics.num_labelled or critics.samples)"
                )  # fmt: skip
                continue
            settings = critic_settings(
                self.context.config.critics, base, inspect_checkpoint(refs[role].path).is_critic
            )
            jobs.append((critic_job, (role, refs[role].path, split, settings, seed)))
        return jobs

    def label(self, refs: Mapping[str, ModelRef], number: int) -> Labelled:
        """Sample the policy on the labelled problems and judge what it wrote."""
        config = self.context.config
        problems = self.context.task.labelled(config.critics.num_labelled, config.seed)
        models = self.context.models_for(refs)
        self.context.progress.stage("labelling", len(problems), "problems")
        seed = derive_seed(config.seed, number, "label")
        labelled = Examinee(models, self.context.task, problems, seed).labelled(
            config.critics.samples, config.critics.states, config.critics.options,
            config.hosting.cohort, self.context.progress.update,
        )  # fmt: skip
        if labelled.suspects:
            texts = {p.id: p.text for p in problems}
            self.context.progress.say(
                f"warning: {len(labelled.suspects)} of {len(problems)} reference answers of "
                f"labelled problems look wrong, for example that of "
                f"{texts[labelled.suspects[0]][:60]!r}: the policy keeps coming to another one"
            )
        return labelled

    def replayed(self, refs: Mapping[str, ModelRef], number: int, num_rows: int) -> list[Example]:
        """Demonstrations to mix in; none for a task without any."""
        wanted = round(self.context.config.training.replay_share * num_rows)
        seed = replay_seed(self.context.config.seed, number)
        tokenizer = Tokenizer(Path(refs["policy"].path))
        return demonstration_examples(
            self.context.task, tokenizer, self.context.task.demonstrations(wanted, seed)
        )
