"""The training stage of a round: what the models learn from, and the jobs that teach them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.checkpoints.model_refs import ModelRef, ModelSet
from agent.checkpoints.publish import NonFiniteError
from agent.checkpoints.trained import Trained
from agent.rounds import failpoints
from agent.rounds.context import RunContext
from agent.rounds.critic_lessons import CriticLessons
from agent.rounds.variation import Variation
from agent.training.drafter import DrafterJob
from agent.training.examples import Example, PairExample, SiblingSteps, StoredState, example_of
from agent.training.fit import DivergedError, planned_steps
from agent.training.job import TrainingJob
from agent.training.lesson import Lesson, NothingToLearnError
from agent.training.methods.registry import policy_job
from agent.training.mixture import with_dev
from agent.training.recipe import drafter_settings, policy_settings, replay_seed
from agent.training.rehearsal import drawn
from agent.training.runner import Results
from agent.training.stored_examples import as_examples, pair_examples, sibling_steps
from search.errors import RatchetError
from search.randomness import derive_seed
from search.state import State
from store.datasets import (
    StoredText,
    dataset_of,
    earlier_datasets,
    read_dataset,
    selected_report,
    stored_states,
)
from store.pairs import stored_pairs
from store.siblings import stored_siblings
from store.states import VOTER, Stage, is_voter


@dataclass(frozen=True, slots=True)
class Taught:
    """All that a round trained: every model made, and those worth having, by role."""

    trained: list[Trained]
    candidates: dict[str, Trained]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store holds for a round to learn from."""

    dataset_id: int
    found: list[StoredText]
    """Texts of the round's own dataset."""
    earlier: list[StoredText]
    """Those of earlier rounds, oldest first."""


class TrainingStage:
    """Teaches the models of one round; number 0 is before the first, for critics alone."""

    def __init__(self, context: RunContext, refs: Mapping[str, ModelRef], number: int) -> None:
        self.context = context
        self.config = context.config
        self.refs = refs
        self.number = number
        self.settings = policy_settings(context.config.training, refs["policy"].header)
        """Of the policy's job; the others' follow it."""
        self.lessons = CriticLessons(context, refs, number, self.settings)

    def critics_alone(self) -> dict[str, Trained]:
        """Critics by role, taught from labelled texts; those that could not be are left out."""
        jobs = self.lessons.jobs(self.lessons.labelled())
        self.context.progress.stage("critics", self.config.critics.steps, "steps")
        self.context.hosts.release()
        return self._succeeded(self.context.trainer.run(jobs, self.context.progress))

    def run(self, round_id: int) -> Taught:
        """Policy and critics side by side, then the drafter from the new policy.

        Raises NothingToLearnError, DivergedError and NonFiniteError.
        """
        kept = self.kept(round_id)
        if not kept.found:
            with self.context.store.session() as session:
                refused = selected_report(session, round_id).get("refused", {})
            raise NothingToLearnError(f"no trajectory passed the selection{_advice(refused)}")
        right: list[State] = []
        critics = []
        if self.config.critics.steps and self.config.critics.num_labelled:
            labelled = self.lessons.labelled()
            right = labelled.right_texts if self.config.training.use_labelled else []
            critics = self.lessons.jobs(labelled)
        lesson = self.lesson(kept, right)
        policy = policy_job(lesson)
        num_steps = self._announced(policy)
        failpoints.hit("while-training")
        self.context.hosts.release()
        jobs = [policy, *critics, *self._voters(lesson)]
        results = self.context.trainer.run(jobs, self.context.progress)
        failpoints.hit("after-policy")
        self.context.progress.update(num_steps)
        if isinstance(error := results["policy"], RatchetError):
            raise error
        trained = self._succeeded(results)
        candidates = {role: made for role, made in trained.items() if is_worth_having(made)}
        found = as_examples(kept.found)
        drafter = self._drafter(candidates["policy"], found, policy.seed)
        if drafter is not None:
            candidates["drafter"] = drafter
        return Taught([*trained.values(), *([drafter] if drafter else [])], candidates)

    def _variants(self, stored: Sequence[StoredText], right: Sequence[State]) -> list[Example]:
        if not self.config.training.variants:
            return []
        examples = [*as_examples(stored), *map(example_of, right)]
        told = [(t.problem, t.steps) for t in stored] + [(s.problem, tuple(s.steps)) for s in right]
        # A near copy of what an early stop looks at would tell it nothing.
        learned = set(with_dev(examples)[0])
        worked = [words for words, e in zip(told, examples, strict=True) if e in learned]
        found = Variation(self.context, self.number).of(worked)
        self.context.progress.say(f"{len(found)} variants of {len(worked)} texts are learned, too")
        return found

    def _voters(self, lesson: Lesson) -> list[TrainingJob]:
        """Jobs of further policies: the same texts with other seeds, in another order."""
        found = []
        for number in range(1, self.config.voting.trained + 1):
            place = f"{VOTER}{number}"
            seed = derive_seed(lesson.seed, place) % 2**31
            found.append(replace(policy_job(replace(lesson, seed=seed)), role=place))
        return found

    def _announced(self, job: TrainingJob) -> int:
        """Steps that the policy's job will take, told with what bounds them."""
        num_texts = len(getattr(job, "examples", ()))
        num_steps = planned_steps(num_texts, job.settings) if num_texts else job.settings.num_steps
        self.context.progress.stage(Stage.TRAINING, num_steps, "steps")
        if num_steps < self.settings.num_steps:
            passes = num_steps * job.settings.batch_size / num_texts if num_texts else 0
            self.context.progress.say(
                f"{num_steps} of {self.settings.num_steps} steps: {passes:.1f} passes over "
                f"{num_texts} texts, replayed ones among them (training.max_epochs)"
            )
        return num_steps

    def kept(self, round_id: int) -> Kept:
        """What the round and those before it left in the store."""
        with self.context.store.session() as session:
            dataset = dataset_of(session, round_id)
            dataset_id = dataset.id if dataset else 0
            run_id = self.context.lease.run_id
            return Kept(
                dataset_id,
                read_dataset(session, dataset_id),
                earlier_datasets(session, run_id, self.number),
            )

    def lesson(self, kept: Kept, right: Sequence[State]) -> Lesson:
        """What the policy may learn from, by whichever method is set."""
        stored = [*kept.found, *kept.earlier]
        texts = [*as_examples(stored), *map(example_of, right)]
        config = self.config
        doubts = ModelSet(self.refs).distrusted(config.critics.min_auc)

        def replayed(num_rows: int) -> list[Example]:
            wanted = round(config.training.replay_share * num_rows)
            seed = replay_seed(config.seed, self.number)
            return drawn(self.context.demonstrations, wanted, seed)

        def pairs() -> list[PairExample]:
            with self.context.store.session() as session:
                found = stored_pairs(session, kept.dataset_id)
                return pair_examples(found, self.context.prompts)

        def states() -> list[StoredState]:
            with self.context.store.session() as session:
                return [StoredState(*row) for row in stored_states(session, kept.dataset_id)]

        def siblings() -> list[SiblingSteps]:
            with self.context.store.session() as session:
                found = stored_siblings(session, kept.dataset_id)
                return sibling_steps(found, self.context.prompts, self.context.max_positions)

        return Lesson(
            policy=self.refs["policy"],
            config=config.training,
            settings=self.settings,
            seed=derive_seed(config.seed, self.number, "train") % 2**31,
            texts=texts,
            variants=self._variants(stored, right),
            replayed=replayed,
            has_replay=bool(self.context.demonstrations),
            pairs=pairs,
            states=states,
            siblings=siblings,
            outcome=self.refs["outcome"],
            outcome_doubt=doubts.get("outcome", ""),
        )

    def _succeeded(self, results: Results) -> dict[str, Trained]:
        """What was trained, by role; a critic that cannot be trained stays as it is."""
        for place, error in results.items():
            if isinstance(error, RatchetError):
                who = place if is_voter(place) else "a critic"
                self.context.progress.say(f"warning: {who} was not trained: {error.message}")
        return {role: made for role, made in results.items() if isinstance(made, Trained)}

    def _drafter(self, policy: Trained, texts: list[Example], seed: int) -> Trained | None:
        """A drafter of the new policy; None when none is wanted, or its training failed.

        The old one then stays: it drafts worse, but no text depends on it.
        """
        if not self.config.training.drafter_steps:
            return None
        policy_header = self.refs["policy"].header
        settings = drafter_settings(self.config.training, self.settings, policy_header)
        progress = self.context.progress
        progress.stage("drafting", settings.num_steps, "steps of the drafter")
        job = DrafterJob(
            role="drafter",
            parent=policy.path,
            settings=settings,
            seed=seed,
            examples=texts,
            start=self.refs["drafter"].path if "drafter" in self.refs else "",
        )
        try:
            drafter = self.context.trainer.run([job], progress)["drafter"]
            if isinstance(drafter, RatchetError):
                raise drafter
            progress.update(settings.num_steps)
            return drafter
        except (DivergedError, NonFiniteError) as error:
            progress.say(f"warning: the drafter was not trained: {error.message}")
            return None


ADVICE = {
    "no finished text": "raise hosting.text_tokens or tokens_per_problem, or teach texts to end",
    "no answer": "teach the policy the form of answers, or set selection.must_answer=false",
    "unsound step": "raise search.simulations, or set selection.must_be_sound=false",
    "wrong answer": "raise search.simulations, or give easier problems",
    "answer unknown": "give problems with answers, or set selection.must_be_correct=false",
    "outcome score": "lower selection.min_outcome",
    "not trusted": "see what the selection said of labelled problems",
    "support": "lower selection.min_support",
    "confidence": "lower selection.min_confidence",
    "too long": "raise selection.max_tokens",
    "reward": "lower selection.min_reward",
    "nobody judged it": "raise critics.num_labelled, so that the outcome critic can be trusted",
}
"""What to do about searches that gave nothing, by the reason."""


def _advice(refused: Mapping[str, int]) -> str:
    """The two most common reasons, each with what to do about it."""
    most = sorted(refused.items(), key=lambda r: -r[1])[:2]
    told = [f"{why} {num}: {ADVICE[why]}" for why, num in most if why in ADVICE]
    return " (" + "; ".join(told) + ")" if told else "; raise search.simulations"


def is_worth_having(trained: Trained) -> bool:
    """A retrained critic replaces the old one unless it ranks held-out texts worse, or nobody knows
    how it ranks them."""
    before, after = trained.report.get("parent_auc"), trained.report.get("auc")
    return before is None or (after is not None and after >= before)
