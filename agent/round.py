"""One turn of the ratchet as a state machine over the store.

    imagining -> searching -> selecting -> training -> evaluating -> promoted | kept | failed

Each stage leaves what it made in the store (or in a published checkpoint) before the round's row
moves on, in one transaction; a round that is taken up again starts at its row's stage and finds
there all that it needs. Nothing lives in this process that would be missed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from agent import failpoints
from agent.context import RunContext
from agent.engine.checkpoint import inspect_checkpoint
from agent.engine.hosts import ModelRef
from agent.engine.tokenizer import Tokenizer
from agent.examiner import Examiner, Figures
from agent.gate import Verdict, judge, kept
from agent.imagination import Imagination
from agent.models import refs_of, register_trained
from agent.searching import SearchStage
from agent.teacher import Teacher
from agent.training.examples import Example
from agent.training.jobs import Trained, drafter_job, policy_job
from agent.training.optimizer import TrainingSettings
from agent.training.policy import DivergedError
from agent.training.publish import NonFiniteError
from agent.training.recipe import (
    drafter_settings,
    mixed_examples,
    policy_settings,
    rows_to_train,
)
from agent.workshop import Job
from search.errors import TaskError
from search.randomness import derive_seed
from search.state import Problem
from store.database import Store, now_us
from store.datasets import dataset_of, earlier_datasets, freeze_dataset, read_dataset
from store.recording import add_event, add_problems, as_problem, plan_searches
from store.schema import ENDED, ProblemRow, Round, SearchRow
from store.selection import SelectionRule, solve_rates


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a round ended."""

    number: int
    stage: str
    verdict: dict[str, Any]
    before: Figures | None
    after: Figures | None
    timings: dict[str, float]


class RoundRunner:
    """Takes the open round of a run through its stages."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.config = context.config
        self.store = context.store
        self.lease = context.lease
        self.task = context.task
        self.progress = context.progress
        self.examiner = Examiner(context)
        self.teacher = Teacher(context)

    def run(self, round_id: int) -> Outcome:
        """Go on from the round's stage to its end."""
        stages: dict[str, Callable[[int], None]] = {
            "imagining": self._imagine,
            "searching": self._search,
            "selecting": self._select,
            "training": self._train,
            "evaluating": self._evaluate,
        }
        while (stage := self._row(round_id).stage) in stages:
            started = time.monotonic()
            stages[stage](round_id)
            self._note_time(round_id, stage, time.monotonic() - started)
        return self._outcome(round_id)

    # --- stages ---

    def _imagine(self, round_id: int) -> None:
        """New problems from all that the run knows, and a planned search for each."""
        row = self._row(round_id)
        self.progress.stage("imagining", self.config.problems_per_round, "problems")
        with self.store.session() as session:
            searched = (
                select(ProblemRow)
                .join(SearchRow, SearchRow.problem_id == ProblemRow.id)
                .join(Round, Round.id == SearchRow.round_id)
                .where(Round.run_id == row.run_id)
                .order_by(SearchRow.id)
            )
            seen = [as_problem(p) for p in session.scalars(searched)]
            rates = solve_rates(session, row.run_id)
        seed = derive_seed(self.config.seed, row.number, "imagine")
        parents = [*self.task.seeds(self.config.num_seeds, self.config.seed), *seen]
        tokenizer = Tokenizer(Path(self._models_of(round_id)["policy"].path))
        settings = self.config.evaluation
        held_out = self.task.held_out(settings.num_problems, settings.seed)
        imagined = Imagination(self.task, held_out).imagine(
            parents, seen, self.config.problems_per_round, seed, rates,
            self.config.imagination.wordings,
        )  # fmt: skip
        problems = [p for p in imagined.problems if self._fits(tokenizer, p)]
        if not problems:
            self._end(round_id, "kept", kept("imagination found no new problem"))
            return
        with self._writing() as session:
            stored = session.get_one(Round, round_id)
            rows = add_problems(session, self.config.task, problems, round_id)
            plan = [
                (p.id, derive_seed(self.config.seed, row.number, p.key, "search")) for p in rows
            ]
            plan_searches(session, stored, plan)
            add_event(session, row.run_id, "imagined", imagined.report(), round_id)
            stored.stage = "searching"
        self.progress.update(len(problems))
        failpoints.hit("after-imagining")

    def _search(self, round_id: int) -> None:
        """All searches of the round that have not ended."""
        models = self.context.models_for(self._models_of(round_id))
        SearchStage(self.context, models, round_id).run()
        failpoints.hit("after-searching")
        self._move(round_id, "selecting")

    def _select(self, round_id: int) -> None:
        """Freeze the trajectories that the critics trust."""
        rule = SelectionRule(**self.config.selection.model_dump())
        self.progress.stage("selecting", self._row(round_id).num_problems, "trajectories kept")
        with self._writing() as session:
            row = session.get_one(Round, round_id)
            dataset = dataset_of(session, round_id) or freeze_dataset(session, row, rule)
            row.stage = "training"
            size = dataset.num_items
        self.progress.update(size)
        failpoints.hit("after-selecting")

    def _train(self, round_id: int) -> None:
        """Policy and critics side by side, then the drafter from the new policy."""
        row = self._row(round_id)
        with self.store.session() as session:
            dataset = dataset_of(session, round_id)
            found = read_dataset(session, dataset.id) if dataset else []
            earlier = earlier_datasets(session, row.run_id, row.number)
        if dataset is None or not found:
            self._end(round_id, "kept", kept(
                "no trajectory passed the selection; lower selection.min_outcome or raise "
                "search.simulations"
            ))  # fmt: skip
            return
        refs = self._models_of(round_id)
        policy = inspect_checkpoint(refs["policy"].path)
        base = policy_settings(self.config.training, policy)
        seed = derive_seed(self.config.seed, row.number, "train") % 2**31
        num_steps, num_rows = rows_to_train(self.config.training, len(found) + len(earlier))
        base = base.model_copy(update={"num_steps": num_steps})
        replayed = self.teacher.replayed(refs, row.number, num_rows)
        share = self.config.training.replay_share
        examples = mixed_examples(found, earlier, replayed, share, num_rows)
        jobs: list[Job] = [(policy_job, (refs["policy"].path, examples, base, seed))]
        if self.config.critics.steps and self.config.critics.num_labelled:
            jobs += self.teacher.critic_jobs(refs, row.number)
        self.progress.stage("training", base.num_steps, "steps")
        failpoints.hit("while-training")
        try:
            trained = self.context.workshop.run(jobs, self.progress)
        except (DivergedError, NonFiniteError) as error:
            self._end(round_id, "kept", kept(f"training failed: {error.message}"))
            return
        failpoints.hit("after-policy")
        self.progress.update(base.num_steps)
        candidates = {t.role: t for t in trained if _is_worth_having(t)}
        texts = [Example(t.prompt_tokens + t.tokens, len(t.prompt_tokens)) for t in found]
        drafter = self._drafter(candidates["policy"], texts, base, seed)
        if drafter is not None:
            candidates["drafter"] = drafter
        with self._writing() as session:
            stored = session.get_one(Round, round_id)
            for t in [*trained, *candidates.values()]:
                register_trained(session, t, round_id, dataset.id)
            stored.candidates = {role: t.version for role, t in candidates.items()}
            stored.stage = "evaluating"
        failpoints.hit("after-training")

    def _drafter(
        self, policy: Trained, texts: list[Example], base: TrainingSettings, seed: int
    ) -> Trained | None:
        """A drafter of the new policy; None when none is wanted, or its training failed.

        The old one then stays: it drafts worse, but no text depends on it.
        """
        if not self.config.training.drafter_steps:
            return None
        settings = drafter_settings(self.config.training, base)
        self.progress.stage("drafting", settings.num_steps, "steps of the drafter")
        job: Job = (drafter_job, (policy.path, texts, settings, seed))
        try:
            (drafter,) = self.context.workshop.run([job], self.progress)
            self.progress.update(settings.num_steps)
            return drafter
        except (DivergedError, NonFiniteError) as error:
            self.progress.say(f"warning: the drafter was not trained: {error.message}")
            return None

    def _evaluate(self, round_id: int) -> None:
        """Old and new on the same held-out problems, then the gate."""
        row = self._row(round_id)
        old = self._models_of(round_id)
        with self.store.session() as session:
            new = old | refs_of(session, row.candidates or {})
        before, after = self.examiner.figures(old, round_id), self.examiner.figures(new, round_id)
        failpoints.hit("after-evaluation")
        verdict = judge(before.greedy.correct, after.greedy.correct, self.config.evaluation.gate_p)
        failpoints.hit("before-verdict")
        self._end(round_id, "promoted" if verdict.is_promoted else "kept", verdict)
        failpoints.hit("after-verdict")

    # --- what stages share ---

    def _fits(self, tokenizer: Tokenizer, problem: Problem) -> bool:
        """Whether the policy can read a problem that nobody has looked at yet."""
        try:
            size = len(tokenizer.encode(self.task.prompt(problem.text)))
        except TaskError:
            return False
        return size < self.context.max_positions

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that only the holder of the run's lease may commit."""
        with self.store.session() as session:
            self.lease.guard(session)
            yield session

    def _row(self, round_id: int) -> Round:
        with self.store.session() as session:
            return session.get_one(Round, round_id)

    def _models_of(self, round_id: int) -> dict[str, ModelRef]:
        with self.store.session() as session:
            return refs_of(session, session.get_one(Round, round_id).models)

    def _move(self, round_id: int, stage: str) -> None:
        with self._writing() as session:
            session.get_one(Round, round_id).stage = stage

    def _note_time(self, round_id: int, stage: str, seconds: float) -> None:
        with self._writing() as session:
            row = session.get_one(Round, round_id)
            row.timings = row.timings | {stage: row.timings.get(stage, 0.0) + round(seconds, 2)}

    def _end(self, round_id: int, stage: str, verdict: Verdict) -> None:
        with self._writing() as session:
            row = session.get_one(Round, round_id)
            if row.stage in ENDED:
                return
            row.stage, row.verdict, row.ended_ts = stage, verdict.as_dict(), now_us()
            add_event(session, row.run_id, f"round-{stage}", verdict.as_dict(), round_id)

    def _outcome(self, round_id: int) -> Outcome:
        row = self._row(round_id)
        before = after = None
        if row.candidates:
            old = self._models_of(round_id)
            with self.store.session() as session:
                new = old | refs_of(session, row.candidates)
            before, after = (
                self.examiner.figures(old, round_id),
                self.examiner.figures(new, round_id),
            )
        return Outcome(row.number, row.stage, row.verdict or {}, before, after, row.timings)


def _is_worth_having(trained: Trained) -> bool:
    """A retrained critic replaces the old one unless it ranks held-out texts worse."""
    before, after = trained.report.get("parent_auc"), trained.report.get("auc")
    return before is None or after is None or after >= before


def open_round(store: Store, run_id: int) -> int | None:
    """Id of the run's unfinished round; None when all have ended."""
    with store.session() as session:
        found: int | None = session.scalars(
            select(Round.id).where(Round.run_id == run_id, Round.stage.not_in(ENDED))
        ).first()
        return found


def next_number(store: Store, run_id: int) -> int:
    with store.session() as session:
        last = session.execute(
            select(func.max(Round.number)).where(Round.run_id == run_id)
        ).scalar()
        return int(last or 0) + 1
