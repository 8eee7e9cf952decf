"""What a round's models learn from: labelled texts for the critics, demonstrations to replay."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.checkpoints.checkpoint import inspect_checkpoint
from agent.engine.tokenizer import Tokenizer
from agent.hosting.model_host import CRITIC_ROLES, ModelRef
from agent.imagination.decontamination import Decontamination
from agent.rounds.context import RunContext
from agent.rounds.label_sampling import Examinee
from agent.training.examples import CriticExample, Example
from agent.training.jobs import Trained, critic_job
from agent.training.labelling import Labelled, tree_rows
from agent.training.preference import PairExample
from agent.training.recipe import (
    critic_settings,
    pair_examples,
    policy_settings,
    replay_seed,
)
from agent.training.rehearsal import drawn
from agent.training.runner import Job
from search.errors import RatchetError
from search.randomness import derive_seed
from search.state import Problem
from store.pairs import stored_pairs
from store.verdicts import StoredVerdict, dataset_window, stored_verdicts


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
        more = self.from_trees(refs, number)
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
                )
                continue
            # Rows that a round only trusts may not outnumber those that are true.
            split.train.extend(more[role][: len(split.train)])
            settings = critic_settings(
                self.context.config.critics, base, inspect_checkpoint(refs[role].path).is_critic
            )
            jobs.append((critic_job, (role, refs[role].path, split, settings, seed)))
        return jobs

    def from_trees(
        self, refs: Mapping[str, ModelRef], number: int
    ) -> dict[str, list[CriticExample]]:
        """Rows from the stored trees of the last rounds, newest first; none with window 0."""
        verdicts: list[StoredVerdict] = []
        pairs: list[PairExample] = []
        tokenizer = Tokenizer(Path(refs["policy"].path))
        with self.context.store.session() as session:
            datasets = dataset_window(
                session, self.context.lease.run_id, number, self.context.config.critics.window
            )
            for dataset_id in reversed(datasets):
                verdicts += stored_verdicts(session, dataset_id)
                pairs += pair_examples(stored_pairs(session, dataset_id), tokenizer)
        return tree_rows(verdicts, pairs)

    def label(self, refs: Mapping[str, ModelRef], number: int) -> Labelled:
        """Sample the policy on the labelled problems and judge what it wrote."""
        config = self.context.config
        problems = self.labelled_problems()
        models = self.context.models_for(refs)
        self.context.progress.stage("labelling", len(problems), "problems")
        seed = derive_seed(config.seed, number, "label")
        labelled = Examinee(models, self.context.task, problems, seed).labelled(
            config.critics.samples,
            config.critics.states,
            config.critics.options,
            config.hosting.cohort,
            self.context.progress.update,
        )
        if labelled.suspects:
            texts = {p.id: p.text for p in problems}
            self.context.progress.say(
                f"warning: {len(labelled.suspects)} of {len(problems)} reference answers of "
                f"labelled problems look wrong, for example that of "
                f"{texts[labelled.suspects[0]][:60]!r}: the policy keeps coming to another one"
            )
        return labelled

    def trained_critics(self, results: Sequence[Trained | RatchetError]) -> list[Trained]:
        """What came of the critics' jobs; one that cannot be trained stays as it is."""
        for error in results:
            if isinstance(error, RatchetError):
                self.context.progress.say(f"warning: a critic was not trained: {error.message}")
        return [result for result in results if isinstance(result, Trained)]

    def labelled_problems(self) -> list[Problem]:
        """Problems with known answers that give no held-out one away."""
        config, task = self.context.config, self.context.task
        held_out = task.held_out(config.evaluation.num_problems, config.evaluation.seed)
        guard = Decontamination(held_out, task.key)
        found = task.labelled(config.critics.num_labelled, config.seed)
        clean = [p for p in found if not guard.leak(p.text)]
        if len(clean) < len(found):
            self.context.progress.say(
                f"warning: {len(found) - len(clean)} of {len(found)} labelled problems share their "
                "key or thirteen words with a held-out one and are left out"
            )
        return clean

    def replayed(self, number: int, num_rows: int) -> list[Example]:
        """Demonstrations of the run's base policy to mix in; none where none are known."""
        wanted = round(self.context.config.training.replay_share * num_rows)
        seed = replay_seed(self.context.config.seed, number)
        return drawn(self.context.demonstrations, wanted, seed)
