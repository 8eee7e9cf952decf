"""What a round's critics learn from: labelled texts, judged options, and stored trees."""

from collections.abc import Mapping

from agent.checkpoints.model_refs import CHECKER, CRITIC_ROLES, ModelRef
from agent.imagination.decontamination import Decontamination
from agent.rounds.context import RunContext
from agent.rounds.label_sampling import LabelSampling
from agent.training.critic_job import CriticJob
from agent.training.examples import CriticExample, PairExample
from agent.training.labelling import Labelled, Split, contrasted, tree_rows
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import critic_settings
from agent.training.stored_examples import pair_examples
from search.randomness import derive_seed
from search.state import Problem
from store.pairs import stored_pairs
from store.verdicts import StoredVerdict, dataset_window, stored_verdicts


class CriticLessons:
    def __init__(
        self,
        context: RunContext,
        refs: Mapping[str, ModelRef],
        number: int,
        base: TrainingSettings,
    ) -> None:
        """`number` is the round's; critics train like the policy, whose settings are `base`."""
        self.context = context
        self.config = context.config
        self.refs = refs
        self.number = number
        self.base = base

    def labelled(self) -> Labelled:
        """Sample the policy on the labelled problems and judge what it wrote."""
        settings = self.config.critics
        problems = labelled_problems(self.context)
        # What labels say is known, and no checker's guess.
        refs = {role: ref for role, ref in self.refs.items() if role != CHECKER}
        models = self.context.models_for(refs)
        self.context.progress.stage("labelling", len(problems), "problems")
        seed = derive_seed(self.config.seed, self.number, "label")
        labelled = LabelSampling(models, self.context.task, problems, seed).labelled(
            settings.samples,
            settings.states,
            settings.options,
            self.config.hosting.cohort,
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

    def jobs(self, labelled: Labelled) -> list[CriticJob]:
        """A job for each critic, where there are labels to learn."""
        more = self._from_trees()
        jobs: list[CriticJob] = []
        for role in CRITIC_ROLES:
            split = labelled.of(role)
            if len(split.classes) < 2:
                self._warn_of_classes(role, split)
                continue
            # Rows that a round only trusts may not outnumber those that are true.
            split.train.extend(more[role][: len(split.train)])
            has_head = self.refs[role].header.is_critic
            jobs.append(
                CriticJob(
                    role=role,
                    parent=self.refs[role].path,
                    settings=critic_settings(self.config.critics, self.base, has_head),
                    seed=derive_seed(self.config.seed, self.number, "critics") % 2**31,
                    split=split,
                    tuned_layers=self.config.critics.tuned_layers,
                )
            )
        return jobs

    def _warn_of_classes(self, role: str, split: Split) -> None:
        only = "good" if True in split.classes else "bad"
        found = f"labels of one class only ({only})" if split.classes else "no labels"
        self.context.progress.say(
            f"warning: {found} for the {role} critic; it stays as it is (raise "
            "critics.num_labelled or critics.samples)"
        )

    def _from_trees(self) -> dict[str, list[CriticExample]]:
        """Rows from the stored trees of the last rounds, newest first; none with window 0."""
        verdicts: list[StoredVerdict] = []
        pairs: list[PairExample] = []
        with self.context.store.session() as session:
            datasets = dataset_window(
                session, self.context.lease.run_id, self.number, self.config.critics.window
            )
            for dataset_id in reversed(datasets):
                verdicts += stored_verdicts(session, dataset_id, self.context.task.same_answer)
                pairs += pair_examples(stored_pairs(session, dataset_id), self.context.prompts)
        return tree_rows(contrasted(verdicts), pairs)


def labelled_problems(context: RunContext) -> list[Problem]:
    """Problems with known answers that give no held-out one away."""
    config, task = context.config, context.task
    held_out = task.held_out(config.num_held_out, config.evaluation.seed)
    guard = Decontamination(held_out, task.key)
    found = task.labelled(config.critics.num_labelled, config.seed)
    clean = [p for p in found if not guard.leak(p.text)]
    if len(clean) < len(found):
        context.progress.say(
            f"warning: {len(found) - len(clean)} of {len(found)} labelled problems share their "
            "key or thirteen words with a held-out one and are left out"
        )
    return clean
