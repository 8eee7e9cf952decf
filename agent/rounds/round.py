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
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from agent.checkpoints.publish import NonFiniteError
from agent.checkpoints.registry import refs_of, register_trained
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.gate import Verdict, judge, kept
from agent.hosting.model_host import ModelRef, reference
from agent.imagination.imagine import Imagination
from agent.imagination.written import Source, Writer
from agent.rounds import failpoints
from agent.rounds.context import RunContext
from agent.rounds.evaluation_stage import Examiner, Figures
from agent.rounds.search_stage import SearchStage
from agent.rounds.training_stage import NothingToLearnError, TrainingStage
from agent.training.fit import DivergedError
from search.errors import TaskError
from search.randomness import derive_seed
from search.state import Problem
from store.database import Store, now_us
from store.datasets import dataset_of, freeze_dataset
from store.pairs import freeze_pairs
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
            parents,
            seen,
            self.config.problems_per_round,
            seed,
            rates,
            self.config.imagination.wordings,
            *self._sources(round_id, seed),
        )
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

    def _sources(self, round_id: int, seed: int) -> tuple[list[Source], int]:
        """What writes problems where operators cannot, and how many texts it is asked for."""
        settings = self.config.imagination
        if not settings.schemes:
            return [], 0
        refs = self._models_of(round_id)
        writer = reference(settings.writer, "policy") if settings.writer else refs["policy"]
        hand = Writer(self.context.models_for(refs), writer, seed)
        num = round(settings.written_share * self.config.problems_per_round)
        return [partial(hand.write, scheme) for scheme in settings.schemes], num

    def _search(self, round_id: int) -> None:
        """All searches of the round that have not ended."""
        models = self.context.models_to_search(self._models_of(round_id))
        SearchStage(self.context, models, round_id).run()
        failpoints.hit("after-searching")
        self._move(round_id, "selecting")

    def _select(self, round_id: int) -> None:
        """Freeze the trajectories that the critics trust."""
        rule = SelectionRule(**self.config.selection.model_dump())
        self.progress.stage("selecting", self._row(round_id).num_problems, "trajectories kept")
        with self._writing() as session:
            row = session.get_one(Round, round_id)
            dataset = dataset_of(session, round_id)
            if dataset is None:
                dataset = freeze_dataset(session, row, rule)
                freeze_pairs(session, dataset.id, self.config.training.min_margin)
            row.stage = "training"
            size = dataset.num_items
        self.progress.update(size)
        failpoints.hit("after-selecting")

    def _train(self, round_id: int) -> None:
        """Policy, critics and drafter; what failed to train ends the round, which keeps the old."""
        try:
            lesson = TrainingStage(self.context, round_id).run()
        except NothingToLearnError as error:
            self._end(round_id, "kept", kept(str(error)))
            return
        except (DivergedError, NonFiniteError) as error:
            self._end(round_id, "kept", kept(f"training failed: {error.message}"))
            return
        with self._writing() as session:
            stored = session.get_one(Round, round_id)
            dataset = dataset_of(session, round_id)
            for t in [*lesson.trained, *lesson.candidates.values()]:
                register_trained(session, t, round_id, dataset.id if dataset else None)
            stored.candidates = {role: t.version for role, t in lesson.candidates.items()}
            stored.stage = "evaluating"
        failpoints.hit("after-training")

    def _evaluate(self, round_id: int) -> None:
        """Old and new on the same held-out problems, then the gate."""
        row = self._row(round_id)
        old = self._models_of(round_id)
        with self.store.session() as session:
            new = old | refs_of(session, row.candidates or {})
        before, after = self.examiner.figures(old, round_id), self.examiner.figures(new, round_id)
        failpoints.hit("after-evaluation")
        verdict = judge(
            before.greedy.correct,
            after.greedy.correct,
            self.config.evaluation.gate_p,
            (before.bits_per_character, after.bits_per_character),
        )
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
