"""A run: rounds of one task from one base policy, each beginning where the last one ended."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent.checkpoints.custody import current_models, damaged
from agent.checkpoints.model_refs import ModelRef
from agent.checkpoints.publish import sweep
from agent.config.settings import Config
from agent.config.stored import differing
from agent.hosting.hosts import Hosts
from agent.hosting.open_hosts import open_hosts
from agent.progress import Progress
from agent.rounds.code_version import code_version
from agent.rounds.context import RunContext
from agent.rounds.first_models import first_models
from agent.rounds.heartbeat import Heartbeat
from agent.rounds.inputs import check_policy, checked_inputs
from agent.rounds.round import Outcome, RoundRunner
from agent.training.runner import TrainingRunner
from agent.trial import needs_of
from search.errors import StoreAwayError, UsageError
from store.database import RETRY_S, Store, open_store
from store.leases import RunLease
from store.recording import add_problems
from store.rounds import (
    NewRound,
    fail_round,
    how_far,
    open_round,
    round_settings,
    start_round,
)
from store.runs import create_run, find_run
from store.schema import Round, Run
from store.states import Stage, is_voter, without_voters

ASKED = ("problems", "held_out", "labelled", "answers", "prompt")
"""Settings that say which problems there are, and how they are put."""
NO_RESULT = ("store ", "run ", "checkpoints.", "hosting.", "serve.", "tracking")
"""Settings that no result depends on, but for these:"""
RESULT = tuple(f"hosting.{k} " for k in ("cohort", "batch_target", "option_tokens", "text_tokens"))
REFERENCE = "training.reference_"
"""Of TR-DPO alone."""
START_PATIENCE_S = 10.0
"""A server that is just starting is waited for; a wrong URL should not take long to be said."""


def _told(gpus: Mapping[str, int]) -> str:
    """`GPU 0: policy; GPU 1: value, process`."""
    by_gpu: dict[int, list[str]] = {}
    for role, gpu in gpus.items():
        by_gpu.setdefault(gpu, []).append(role)
    return "; ".join(f"GPU {gpu}: {', '.join(by_gpu[gpu])}" for gpu in sorted(by_gpu))


class Improver:
    """Holds a run's lease and models for as long as rounds are made."""

    def __init__(self, config: Config, progress: Progress, is_fresh: bool = False) -> None:
        """Checks everything that can be checked before a model is loaded or an actor started.

        `is_fresh` says that an unfinished round will be given up.
        """
        self.progress = progress
        self.inputs = checked_inputs(config)
        self.config = config = self.inputs.config
        self.store: Store = open_store(
            config.store, patience_s=min(START_PATIENCE_S, config.hosting.store_wait_s)
        )
        self.store.patience_s = config.hosting.store_wait_s
        self.run_id = self._run_row()
        if not is_fresh:
            with self.store.session() as session:
                begun = open_round(session, self.run_id)
            if begun is not None:
                self._check_same_settings(begun)
        self.lease = RunLease(self.store, self.run_id)
        self.trainer = TrainingRunner(config.hosting, Path(config.checkpoints.folder).expanduser())
        sweep(self.trainer.folder)
        self.hosts: Hosts | None = None
        self.start_s = 0.0
        self.heartbeat: Heartbeat | None = None
        self.models: dict[str, ModelRef] = {}
        """What the next round begins with, until there is a round before it."""

    def _run_row(self) -> int:
        """Id of the run's row, which is made unless it is there."""
        config, base = self.config, self.inputs.policy.version
        with self.store.session() as session:
            run = find_run(session, config.run)
            if run is not None:
                self._check_same_run(run)
                return run.id
            run_id = create_run(
                session,
                config.run,
                task=config.task,
                config=config.model_dump(mode="json") | {"base": base},
                config_sha=config.digest(),
                code_version=code_version(),
                seed=config.seed,
            )
            seeds = self.inputs.task.seeds(config.num_seeds, config.seed)
            add_problems(session, config.task, seeds, None)
            return run_id

    def _news(self) -> list[str]:
        """Problems and prompts that are others than when the run began: so are the gate's."""
        with self.store.session() as session:
            began_with = session.get_one(Run, self.run_id).config
        found = differing(began_with, self.config.model_dump(mode="json"))
        return [f"since the run began, {f}" for f in found if f.split(".")[0].split()[0] in ASKED]

    def _check_same_run(self, run: Run) -> None:
        base = self.inputs.policy.version
        if run.task != self.config.task or run.config.get("base") != base:
            raise UsageError(
                f"run {run.name!r} is of task {run.task!r} from policy {run.config.get('base')}, "
                f"not {self.config.task!r} from {base}",
                "start another run with --run NAME",
            )

    @contextmanager
    def started(self) -> Iterator["Improver"]:
        """Start the hosts; on leaving stop them and give the lease back."""
        try:
            began = time.monotonic()
            self.progress.stage("starting", 5, "actors")
            needs = needs_of([*self.inputs.base.values()], self.config)
            self.hosts = open_hosts(self.config.hosting, needs)
            self.heartbeat = Heartbeat(self.store, self.lease, self.hosts, self.progress)
            self.heartbeat.start()
            self.progress.update(5)
            self.progress.close()
            if gpus := self.hosts.gpus():
                self.progress.say(_told(gpus))
            for note in [*self.inputs.task.notes(), *self._news()]:
                self.progress.say(f"note: {note}")
            for default in self.inputs.defaults:
                self.progress.say(f"by the model: {default}")
            sound = self._sound_models()
            if sound is not None:
                check_policy(self.config, sound["policy"].header)
            self.models = sound or first_models(self.context(), self.inputs.base)
            for ref in without_voters(self.models).values():
                self.hosts.load(ref)
            self.start_s = time.monotonic() - began
            self.progress.close()
            yield self
        finally:
            self.store.patience_s = 0.0
            self.progress.close()
            if self.heartbeat is not None:
                self.heartbeat.stop()
            if self.hosts is not None:
                self.hosts.close()
            self._release()
            self.store.close()

    def context(self) -> RunContext:
        """What the parts of this run share, once the hosts have started."""
        assert self.hosts is not None
        inputs = self.inputs
        return RunContext(
            self.config,
            self.store,
            self.lease,
            self.hosts,
            inputs.task,
            self.trainer,
            self.progress,
            inputs.prompts,
            inputs.max_positions,
            inputs.demonstrations,
        )

    def run_round(self) -> Outcome:
        """Finish the open round, or make the next one; taken up again when the store was away.

        Raises StoreAwayError when nothing has got on for as long as the store's patience.
        """
        away_since, place = 0.0, None
        while True:
            try:
                return self._run_round()
            except StoreAwayError as error:
                now, here = time.monotonic(), self._place()
                if not away_since or here != place:
                    away_since, place = now, here
                if now - away_since >= self.store.patience_s:
                    raise
                self.progress.say(f"warning: {error.message}; the round is taken up again")
                time.sleep(RETRY_S)

    def _place(self) -> tuple[int, str, int] | None:
        """How far the run has come; None when the store does not say."""
        try:
            with self.store.session() as session:
                return how_far(session, self.run_id)
        except StoreAwayError:
            return None

    def _run_round(self) -> Outcome:
        row = self._open_round()
        if row is not None and self._lost_models(row):
            self.give_up_open_round("its models are damaged")
            row = None
        if row is None:
            row = self._new_round()
        else:
            self._check_same_settings(row)
            self.progress.say(f"going on with round {row.number} at {row.stage}")
        if self.heartbeat is not None and self.heartbeat.lost is not None:
            raise self.heartbeat.lost
        return RoundRunner(self.context()).run(row.id)

    def _open_round(self) -> Round | None:
        with self.store.session() as session:
            return open_round(session, self.run_id)

    def _lost_models(self, row: Round) -> bool:
        """Whether models that an open round works with are damaged; candidates are made again."""
        say = self.progress.say
        lost = damaged(self.store, self.run_id, row.models, say)
        if not all(map(is_voter, lost)):
            return True
        if lost:
            say(f"{', '.join(lost)} cannot vote any more")
            with self.store.session() as session:
                self.lease.guard(session)
                left = {place: v for place, v in row.models.items() if place not in lost}
                session.get_one(Round, row.id).models = row.models = left
        if damaged(self.store, self.run_id, row.candidates or {}, say):
            say("training these again")
            with self.store.session() as session:
                self.lease.guard(session)
                stored = session.get_one(Round, row.id)
                stored.stage, stored.candidates = row.stage, row.candidates = Stage.TRAINING, None
        return False

    def give_up_open_round(self, reason: str = "given up") -> None:
        """End a round that was not finished as failed; what it found stays."""
        row = self._open_round()
        if row is None:
            return
        with self.store.session() as session:
            self.lease.guard(session)
            fail_round(session, session.get_one(Round, row.id), reason)

    def _check_same_settings(self, row: Round) -> None:
        if row.config_sha != self.config.digest():
            with self.store.session() as session:
                began_with = round_settings(session, row.id)
            found = differing(began_with, self.config.model_dump(mode="json"))
            is_followed = self.config.training.method == "tr-dpo"
            unused = NO_RESULT if is_followed else (*NO_RESULT, REFERENCE)
            named = [f for f in found if f.startswith(RESULT) or not f.startswith(unused)]
            if began_with and not named:
                return  # the same files under other names
            raise UsageError(
                f"round {row.number} began with other settings: "
                + ("; ".join(named) or f"digest {row.config_sha}, now {self.config.digest()}"),
                "give the settings it began with, or give it up with --fresh",
            )

    def _new_round(self) -> Round:
        refs = self._sound_models() or self.models
        versions = {role: ref.version for role, ref in refs.items()}
        config = self.config
        new = NewRound(
            versions, config.search.as_dict(), config.digest(), config.model_dump(mode="json")
        )
        with self.store.session() as session:
            self.lease.guard(session)
            return start_round(session, self.run_id, new)

    def _sound_models(self) -> dict[str, ModelRef] | None:
        """The models after the last round; damaged ones are set aside for what came before them."""
        return current_models(self.store, self.run_id, self.progress.say)

    def _release(self) -> None:
        try:
            self.lease.release()
        except StoreAwayError as error:  # it ends by itself, and this host sees the process gone
            self.progress.say(f"warning: {error.message}")
