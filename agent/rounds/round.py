"""One round as a state machine over the store.

    imagining -> searching -> selecting -> training -> evaluating -> promoted | kept | failed

Each stage leaves what it made in the store (or in a published checkpoint) before the round's row
moves on, in one transaction; a round that is taken up again starts at its row's stage and finds
there all that it needs. Nothing lives in this process that would be missed. What a verdict means
for the next round is said in `agent/checkpoints/succession.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from agent.checkpoints.custody import stored_refs, trained_as_new
from agent.checkpoints.model_refs import ModelRef
from agent.checkpoints.publish import NonFiniteError, remove_weights
from agent.checkpoints.succession import models_after
from agent.evaluation.gate import Verdict, judge, kept, level
from agent.rounds import failpoints
from agent.rounds.context import RunContext
from agent.rounds.evaluation_stage import EvaluationStage, Figures
from agent.rounds.imagination_stage import ImaginationStage
from agent.rounds.search_stage import SearchStage
from agent.rounds.selection_stage import SelectionStage
from agent.rounds.timeline import Timeline
from agent.rounds.training_stage import TrainingStage
from agent.training.fit import DivergedError
from agent.training.lesson import NothingToLearnError
from search.randomness import derive_seed
from store.checkpoints import Origin, register, reject, rejected_before
from store.database import Session
from store.datasets import dataset_of, freeze_dataset, selected_before, selected_report
from store.pairs import freeze_pairs
from store.recording import add_event, add_problems, as_problem, plan_searches
from store.rounds import at_work_of, end_round, note_time, rounds_of, searches_of
from store.schema import Round
from store.selection import read_finds
from store.states import EventKind, Stage, is_voter


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a round ended."""

    number: int
    stage: Stage
    verdict: dict[str, Any]
    before: Figures | None
    """Of the policy that the round began with; None when nothing was compared."""
    after: Figures | None
    """Of the candidate."""
    timings: dict[str, float]
    """Seconds by stage."""
    at_work: dict[str, dict[str, float]]
    """By stage, the share of its time in which each actor answered calls."""
    selection: dict[str, Any] = field(default_factory=dict)
    """What was kept, and what labelled problems say of it; empty for a round that selected
    nothing."""


class RoundRunner:
    """Takes the open round of a run through its stages."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.config = context.config
        self.store = context.store
        self.lease = context.lease
        self.progress = context.progress
        self.evaluation = EvaluationStage(context)

    def run(self, round_id: int) -> Outcome:
        """Go on from the round's stage to its end."""
        stages: dict[str, Callable[[int], None]] = {
            Stage.IMAGINING: self._imagine,
            Stage.SEARCHING: self._search,
            Stage.SELECTING: self._select,
            Stage.TRAINING: self._train,
            Stage.EVALUATING: self._evaluate,
        }
        while (stage := self._row(round_id).stage) in stages:
            timeline = Timeline(self.context.hosts)
            stages[stage](round_id)
            seconds, at_work = timeline.seconds, timeline.at_work()
            with self._writing() as session:
                row = session.get_one(Round, round_id)
                note_time(row, stage, seconds)
                payload = {"stage": stage, "seconds": round(seconds, 2), "at_work": at_work}
                add_event(session, row.run_id, EventKind.STAGE_ENDED, payload, round_id)
        return self._outcome(round_id)

    # --- stages ---

    def _imagine(self, round_id: int) -> None:
        """New problems from all that the run knows, and a planned search for each."""
        row = self._row(round_id)
        self.progress.stage(Stage.IMAGINING, self.config.problems_per_round, "problems")
        stage = ImaginationStage(self.context, self._models_of(row), row.number)
        imagined = stage.run(row.run_id)
        problems = imagined.problems
        refused = ", ".join(f"{why} {num}" for why, num in imagined.refused.most_common())
        if refused:
            self.progress.say(f"{len(problems)} problems; refused: {refused}")
        if not problems:
            why = ", ".join(f"{why} {num}" for why, num in imagined.refused.most_common())
            self._end(
                round_id, kept(f"imagination found no new problem ({why or 'none was made'})")
            )
            return
        with self._writing() as session:
            stored = session.get_one(Round, round_id)
            searched = [*problems, *imagined.probes]
            rows = add_problems(session, self.config.task, searched, round_id)
            plan = [
                (p.id, derive_seed(self.config.seed, row.number, p.key, "search")) for p in rows
            ]
            plan_searches(session, stored, plan)
            add_event(session, row.run_id, EventKind.IMAGINED, imagined.report(), round_id)
            stored.stage = Stage.SEARCHING
        self.progress.update(len(problems))
        failpoints.hit("after-imagining")

    def _search(self, round_id: int) -> None:
        """All searches of the round that have not ended."""
        models = self.context.models_to_search(self._models_of(self._row(round_id)))
        SearchStage(self.context, models, round_id).run()
        failpoints.hit("after-searching")
        with self._writing() as session:
            session.get_one(Round, round_id).stage = Stage.SELECTING

    def _select(self, round_id: int) -> None:
        """Freeze the trajectories that the critics trust."""
        row = self._row(round_id)
        self.progress.stage(Stage.SELECTING, row.num_problems, "trajectories kept")
        with self.store.session() as session:
            finds = read_finds(session, round_id)
            searched = [as_problem(p) for _, p in searches_of(session, round_id)]
            before = selected_before(session, row.run_id, row.number)
        # Critics, rewards and verifiers are asked outside of any transaction.
        stage = SelectionStage(self.context, self._models_of(row))
        chosen = stage.run(finds, searched, before)
        self.lease.renew()
        with self._writing() as session:
            row = session.get_one(Round, round_id)
            dataset = dataset_of(session, round_id)
            if dataset is None:
                dataset = freeze_dataset(session, row, chosen.rule, chosen.selection, chosen.report)
                freeze_pairs(session, dataset.id, self.config.training.min_margin)
            row.stage = Stage.TRAINING
            report = selected_report(session, round_id)
        self.progress.update(report.get("kept", 0))
        self.progress.close()
        if chosen.said:
            self.progress.say(chosen.said)
        if report.get("refused"):
            reasons = ", ".join(f"{reason} {num}" for reason, num in report["refused"].items())
            self.progress.say(
                f"kept {report['kept']} texts of {report['searches']} searches; "
                f"the others: {reasons}"
            )
        failpoints.hit("after-selecting")

    def _train(self, round_id: int) -> None:
        """Policy, critics and drafter; what failed to train ends the round, which keeps the old."""
        row = self._row(round_id)
        with self.store.session() as session:
            why = selected_report(session, round_id).get("collapse")
        if why:
            self._end(round_id, kept(why))
            return
        try:
            taught = TrainingStage(self.context, self._models_of(row), row.number).run(round_id)
        except NothingToLearnError as error:
            self._end(round_id, kept(str(error)))
            return
        except (DivergedError, NonFiniteError) as error:
            self._end(round_id, kept(f"training failed: {error.message}"))
            return
        with self._writing() as session:
            stored = session.get_one(Round, round_id)
            dataset = dataset_of(session, round_id)
            origin = Origin(round_id, dataset.id if dataset else None)
            for trained in taught.trained:
                register(session, trained_as_new(trained), origin)
            stored.candidates = {role: t.version for role, t in taught.candidates.items()}
            stored.stage = Stage.EVALUATING
        failpoints.hit("after-training")

    def _evaluate(self, round_id: int) -> None:
        """Old and new on the same held-out problems, then the gate."""
        num_policies = self._best_first(round_id)
        before, after = self._compared(self._row(round_id))
        failpoints.hit("after-evaluation")
        # The best of several is the luckiest, too: as many tests share the level (Bonferroni).
        max_p = level(self.config.evaluation.gate_p, self._tests_before(round_id)) / num_policies
        bits = (before.bits_per_character, after.bits_per_character)
        verdict = judge(before.greedy.correct, after.greedy.correct, max_p, bits)
        failpoints.hit("before-verdict")
        self._end(round_id, verdict)
        failpoints.hit("after-verdict")

    def _best_first(self, round_id: int) -> int:
        """Make the policy that is right most often the candidate, the others voters. Returns the
        number of them all; the first one of equals stays."""
        row = self._row(round_id)
        candidates = dict(row.candidates or {})
        places = ["policy", *(place for place in candidates if is_voter(place))]
        if len(places) == 1:
            return 1
        models, new = self._models_of(row), stored_refs(self.store, candidates)
        right = {
            place: self.evaluation.greedy(
                models | {"policy": replace(new[place], role="policy")}, round_id
            ).num_correct
            for place in places
        }
        best = max(places, key=lambda place: right[place])
        told = ", ".join(f"{place} {num}" for place, num in right.items())
        self.progress.say(f"right of the held-out problems: {told}")
        if best != "policy":
            swapped = {"policy": candidates[best], best: candidates["policy"]}
            with self._writing() as session:
                session.get_one(Round, round_id).candidates = candidates | swapped
        return len(places)

    def _tests_before(self, round_id: int) -> list[bool]:
        """Earlier tests of the run, in order: whether each promoted."""
        row = self._row(round_id)
        with self.store.session() as session:
            earlier = reversed(rounds_of(session, row.run_id))
            return [
                r.stage == Stage.PROMOTED
                for r in earlier
                if r.number < row.number and (r.verdict or {}).get("n")
            ]

    # --- what stages share ---

    def _compared(self, row: Round) -> tuple[Figures, Figures]:
        """The round's own models, and the same with its candidates."""
        old = self._models_of(row)
        new = old | stored_refs(self.store, row.candidates or {})
        return self.evaluation.figures(old, row.id), self.evaluation.figures(new, row.id)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that only the holder of the run's lease may commit."""
        with self.store.session() as session:
            self.lease.guard(session)
            yield session

    def _row(self, round_id: int) -> Round:
        with self.store.session() as session:
            return session.get_one(Round, round_id)

    def _models_of(self, row: Round) -> dict[str, ModelRef]:
        return stored_refs(self.store, row.models)

    def _end(self, round_id: int, verdict: Verdict) -> None:
        stage = Stage.PROMOTED if verdict.is_promoted else Stage.KEPT
        with self._writing() as session:
            row = session.get_one(Round, round_id)
            left = models_after(stage, row.models, row.candidates)
            candidates = (row.candidates or {}).items()
            reject(session, {place: v for place, v in candidates if left.get(place) != v})
            end_round(session, row, stage, verdict.as_dict())
            number = row.number
        self._remove_rejected(number)

    def _remove_rejected(self, number: int) -> None:
        """Take weights off the disk that the rule `checkpoints.keep` gives up."""
        keep = self.config.checkpoints.keep
        if not keep:
            return
        with self._writing() as session:
            for row in rejected_before(session, self.lease.run_id, number - keep + 1):
                if remove_weights(row.path, self.context.trainer.folder):
                    payload = {"role": row.role, "version": row.version, "path": row.path}
                    kind = EventKind.CHECKPOINT_REMOVED
                    add_event(session, self.lease.run_id, kind, payload)

    def _outcome(self, round_id: int) -> Outcome:
        """What the store holds of an ended round; nothing is measured again."""
        row = self._row(round_id)
        before, after = self._compared(row) if row.candidates else (None, None)
        with self.store.session() as session:
            selection = selected_report(session, round_id)
            at_work = at_work_of(session, round_id)
        selection.pop("probes", None)
        verdict = row.verdict or {}
        return Outcome(
            row.number,
            Stage(row.stage),
            verdict,
            before,
            after,
            row.timings,
            at_work,
            selection,
        )
