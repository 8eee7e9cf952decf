"""The training stage of a round: what the models learn from, and the jobs that teach them."""

from collections.abc import Sequence
from dataclasses import dataclass

from agent.checkpoints.checkpoint import Checkpoint, inspect_checkpoint
from agent.checkpoints.publish import NonFiniteError
from agent.checkpoints.registry import model_set, refs_of
from agent.engine.tokenizer import Tokenizer
from agent.hosting.model_host import ModelRef
from agent.rounds import failpoints
from agent.rounds.context import RunContext
from agent.rounds.critic_lessons import Teacher
from agent.training.examples import Example
from agent.training.fit import DivergedError
from agent.training.jobs import (
    Trained,
    drafter_job,
    gradient_job,
    policy_job,
    preference_job,
)
from agent.training.optimizer import TrainingSettings
from agent.training.policy_gradient import StoredState
from agent.training.preference import PairExample
from agent.training.recipe import (
    adapter_settings,
    as_examples,
    drafter_settings,
    gradient_settings,
    mixed_examples,
    pair_examples,
    policy_settings,
    preference_settings,
    rows_to_train,
    with_dev,
)
from agent.training.runner import Job
from agent.training.trl_jobs import trl_dpo_job, trl_sft_job
from search.errors import RatchetError
from search.randomness import derive_seed
from store.datasets import dataset_of, earlier_datasets, read_dataset, stored_states
from store.pairs import stored_pairs
from store.schema import Round


class NothingToLearnError(Exception):
    """The round ends without a candidate; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """All that a round trains: every model made, and those worth having."""

    trained: list[Trained]
    candidates: dict[str, Trained]


class TrainingStage:
    def __init__(self, context: RunContext, round_id: int) -> None:
        self.context = context
        self.config = context.config
        self.teacher = Teacher(context)
        with context.store.session() as session:
            row = session.get_one(Round, round_id)
            self.number = row.number
            self.refs: dict[str, ModelRef] = refs_of(session, row.models)
            self.dataset_id = getattr(dataset_of(session, round_id), "id", 0)
            self.found = as_examples(read_dataset(session, self.dataset_id))
            self.earlier = as_examples(earlier_datasets(session, row.run_id, row.number))

    def run(self) -> Lesson:
        """Policy and critics side by side, then the drafter from the new policy.

        Raises NothingToLearnError, DivergedError and NonFiniteError.
        """
        if not self.found:
            raise NothingToLearnError(
                "no trajectory passed the selection; lower selection.min_outcome or "
                "selection.min_support, or raise search.simulations"
            )
        policy = inspect_checkpoint(self.refs["policy"].path)
        base = policy_settings(self.config.training, policy)
        seed = derive_seed(self.config.seed, self.number, "train") % 2**31
        jobs: list[Job] = []
        right: list[Example] = []
        if self.config.critics.steps and self.config.critics.num_labelled:
            labelled = self.teacher.label(self.refs, self.number)
            right = labelled.right_texts if self.config.training.use_labelled else []
            jobs = self.teacher.critic_jobs(self.refs, self.number, labelled)
        jobs.insert(0, self.policy_job(policy, base, right, seed))
        self.context.progress.stage("training", base.num_steps, "steps")
        failpoints.hit("while-training")
        trained = self._finished(self.context.workshop.run(jobs, self.context.progress))
        failpoints.hit("after-policy")
        self.context.progress.update(base.num_steps)
        candidates = {t.role: t for t in trained if is_worth_having(t)}
        drafter = self._drafter(candidates["policy"], base, seed)
        if drafter is not None:
            candidates["drafter"] = drafter
        return Lesson(trained, candidates)

    def _finished(self, results: Sequence[Trained | RatchetError]) -> list[Trained]:
        """What was trained. The first job's error, the policy's, is raised; a critic that cannot be
        trained stays as it is."""
        policy = results[0]
        if isinstance(policy, RatchetError):
            raise policy
        return [policy, *self.teacher.trained_critics(results[1:])]

    def policy_job(
        self, policy: Checkpoint, base: TrainingSettings, right: Sequence[Example], seed: int
    ) -> Job:
        """The policy's job, by the method that is set."""
        config = self.config.training
        path = str(policy.path)
        texts = [*self.found, *self.earlier, *right]
        if config.method == "sft":
            dev: list[Example] = []
            if config.trainer == "own":  # TRL's early stop saves a checkpoint at every look
                texts, dev = with_dev(texts)
            num_steps, examples = self._with_replay(texts, seed)
            settings = base.model_copy(update={"num_steps": num_steps})
            if config.trainer == "trl":
                return trl_sft_job, (path, examples, settings, adapter_settings(config), seed)
            return policy_job, (path, examples, dev, settings, seed)
        if config.method == "dr-po":
            reason = model_set(self.refs).distrusted(self.config.critics.min_auc).get("outcome")
            if reason:
                raise NothingToLearnError(
                    f"the outcome critic, whose scores are the reward, is not trusted: {reason}; "
                    "raise critics.num_labelled, or set training.method to sft"
                )
            with self.context.store.session() as session:
                states = [
                    StoredState(tokens, num_prompt)
                    for tokens, num_prompt in stored_states(session, self.dataset_id)
                ]
            return gradient_job, (
                path,
                self.refs["outcome"].path,
                states,
                base,
                gradient_settings(config),
                seed,
            )
        pairs = self._pairs(Tokenizer(policy.path))
        if not pairs:
            raise NothingToLearnError(
                "no trajectory has a worse sibling to be preferred to; raise search.simulations, "
                "or set training.method to sft"
            )
        settings = base.model_copy(update={"max_epochs": config.max_epochs})
        if config.trainer == "trl":
            return trl_dpo_job, (
                path,
                pairs,
                settings,
                config.beta,
                adapter_settings(config),
                seed,
            )
        _, beside = self._with_replay(texts, seed)
        return preference_job, (
            path,
            pairs,
            beside,
            settings,
            preference_settings(config),
            seed,
        )

    def _with_replay(self, texts: Sequence[Example], seed: int) -> tuple[int, list[Example]]:
        """(steps, rows): the texts as often as it takes, and demonstrations among them."""
        config = self.config.training
        has_replay = bool(self.context.demonstrations)
        num_steps, num_rows = rows_to_train(config, len(texts), has_replay)
        replayed = self.teacher.replayed(self.number, num_rows)
        return num_steps, mixed_examples(texts, replayed, config.replay_share, num_rows, seed)

    def _pairs(self, tokenizer: Tokenizer) -> list[PairExample]:
        with self.context.store.session() as session:
            pairs = stored_pairs(session, self.dataset_id, self.config.training.min_margin)
            return pair_examples(pairs, tokenizer)

    def _drafter(self, policy: Trained, base: TrainingSettings, seed: int) -> Trained | None:
        """A drafter of the new policy; None when none is wanted, or its training failed.

        The old one then stays: it drafts worse, but no text depends on it.
        """
        if not self.config.training.drafter_steps:
            return None
        settings = drafter_settings(self.config.training, base)
        progress = self.context.progress
        progress.stage("drafting", settings.num_steps, "steps of the drafter")
        job: Job = (drafter_job, (policy.path, self.found, settings, seed))
        try:
            (drafter,) = self.context.workshop.run([job], progress)
            if isinstance(drafter, RatchetError):
                raise drafter
            progress.update(settings.num_steps)
            return drafter
        except (DivergedError, NonFiniteError) as error:
            progress.say(f"warning: the drafter was not trained: {error.message}")
            return None


def is_worth_having(trained: Trained) -> bool:
    """A retrained critic replaces the old one unless it ranks held-out texts worse, or nobody knows
    how it ranks them."""
    before, after = trained.report.get("parent_auc"), trained.report.get("auc")
    return before is None or (after is not None and after >= before)
