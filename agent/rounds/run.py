"""A run: rounds of one task from one base policy, each beginning where the last one ended."""

import importlib.metadata
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite

from agent.checkpoints.custody import current_models, damaged
from agent.checkpoints.publish import copied, sweep
from agent.checkpoints.registry import (
    as_ref,
    base_checkpoints,
    policy_at,
    register,
    register_trained,
)
from agent.config.load import Config
from agent.engine.tokenizer import Tokenizer
from agent.hosting.hosts import Hosts, make_hosts
from agent.hosting.model_host import CRITIC_ROLES, ROLES, HostSettings, ModelRef
from agent.progress import Progress
from agent.rounds.context import RunContext
from agent.rounds.critic_lessons import Teacher
from agent.rounds.heartbeat import Heartbeat
from agent.rounds.round import Outcome, RoundRunner, next_number, open_round
from agent.tasks.registry import open_task
from agent.tasks.task import Task
from agent.training.initial import initial_models_job
from agent.training.recipe import policy_settings
from agent.training.rehearsal import read_demonstrations
from agent.training.runner import Workshop
from search.errors import CheckpointError, StoreAwayError, TaskError, UsageError
from store.database import RETRY_S, Store, now_us, open_store
from store.leases import RunLease
from store.recording import add_event, add_problems
from store.schema import Round, Run, SearchRow

START_PATIENCE_S = 10.0
"""A server that is just starting is waited for; a wrong URL should not take long to be said."""


def code_version() -> str:
    """Version of the package and, in a checkout, its commit."""
    version = importlib.metadata.version("ratchet-llm")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def host_settings(config: Config) -> HostSettings:
    hosting = config.hosting
    return HostSettings(
        threads=hosting.threads,
        device=hosting.device,
        engine=hosting.engine,
        batch_rows=hosting.batch_rows,
        draft_tokens=hosting.draft_tokens,
        kv_bytes=hosting.kv_mib * 2**20,
        workers=hosting.workers,
    )


class Improver:
    """Holds a run's lease and models for as long as rounds are made."""

    def __init__(self, config: Config, progress: Progress) -> None:
        """Checks everything that can be checked before a model is loaded or an actor started."""
        self.config = config
        self.progress = progress
        self.task: Task = open_task(config.task, config.problems)
        self.base = base_checkpoints(config)
        self.max_positions = self.base["policy"].architecture.max_positions
        tokenizer = Tokenizer(self.base["policy"].path)
        policy_settings(config.training, self.base["policy"])
        self._check_writer()
        self._check_problems(tokenizer)
        self.demonstrations = read_demonstrations(
            self.base["policy"].path, self.task, tokenizer, self.max_positions
        )
        self.folder = Path(config.checkpoints).expanduser()
        self.store: Store = open_store(
            config.store, patience_s=min(START_PATIENCE_S, config.hosting.store_wait_s)
        )
        self.store.patience_s = config.hosting.store_wait_s
        self.run_id = self._run_row()
        self.lease = RunLease(self.store, self.run_id)
        sweep(self.folder)
        self.hosts: Hosts | None = None
        self.start_s = 0.0
        self.heartbeat: Heartbeat | None = None

    def _check_writer(self) -> None:
        """A model that writes problems is asked in the policy's own tokens."""
        named = self.config.imagination.writer
        if not named:
            return
        writer = policy_at(Path(named).expanduser())
        ours, theirs = (c.path / "tokenizer.json" for c in (self.base["policy"], writer))
        if ours.read_bytes() != theirs.read_bytes():
            raise CheckpointError(
                f"the writer in {writer.path} has another tokenizer than the policy",
                "set imagination.writer to a model of the policy's family, or leave it out",
            )

    def _check_problems(self, tokenizer: Tokenizer) -> None:
        """Every problem that is known now must be spellable, and fit the context."""
        config = self.config
        given = [
            *self.task.seeds(config.num_seeds, config.seed),
            *self.task.held_out(config.evaluation.num_problems, config.evaluation.seed),
            *self.task.labelled(config.critics.num_labelled, config.seed),
        ]
        for problem in given:
            try:
                size = len(tokenizer.encode(self.task.prompt(problem.text)))
            except TaskError as error:
                raise TaskError(
                    f"problem {problem.text[:60]!r}: {error.message}", error.fix
                ) from error
            if size >= self.max_positions:
                raise TaskError(
                    f"problem {problem.text[:60]!r} takes {size} tokens; the policy's context "
                    f"holds {self.max_positions} with the answer",
                    "remove it, or use a policy with a longer context",
                )

    def _run_row(self) -> int:
        with self.store.session() as session:
            run = session.scalars(select(Run).where(Run.name == self.config.run)).one_or_none()
            if run is not None:
                self._check_same_run(run)
                return run.id
            insert_into = (
                sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
            )
            # Two processes may open the first run at once: one row results.
            session.execute(
                insert_into(Run)
                .values(
                    name=self.config.run,
                    task=self.config.task,
                    config=self.config.model_dump(mode="json")
                    | {"base": self.base["policy"].version},
                    config_sha=self.config.digest(),
                    code_version=code_version(),
                    seed=self.config.seed,
                    created_ts=now_us(),
                    fence=0,
                    owner="",
                    lease_until_ts=0,
                )
                .on_conflict_do_nothing()
            )
            run_id = session.scalars(select(Run.id).where(Run.name == self.config.run)).one()
            seeds = self.task.seeds(self.config.num_seeds, self.config.seed)
            add_problems(session, self.config.task, seeds, None)
            return int(run_id)

    def _check_same_run(self, run: Run) -> None:
        base = self.base["policy"].version
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
            self.hosts = make_hosts(
                self.config.hosting.hosting,
                host_settings(self.config),
                self.config.hosting.ray_address,
            )
            self.heartbeat = Heartbeat(self.store, self.lease, self.hosts, self.progress)
            self.heartbeat.start()
            self.models = self._bootstrap()
            for role, ref in self.models.items():
                self.hosts.call(role, "load", ref)
            self.start_s = time.monotonic() - began
            self.progress.update(5)
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

    def _lost_models(self, round_id: int) -> bool:
        """Whether models that an open round works with are damaged; candidates are made again."""
        with self.store.session() as session:
            row = session.get_one(Round, round_id)
            models, candidates = dict(row.models), dict(row.candidates or {})
        say = self.progress.say
        if damaged(self.store, self.run_id, models, say):
            return True
        if damaged(self.store, self.run_id, candidates, say):
            say("training these again")
            with self.store.session() as session:
                self.lease.guard(session)
                row = session.get_one(Round, round_id)
                row.stage, row.candidates = "training", None
        return False

    def give_up_open_round(self, reason: str = "given up") -> None:
        """End a round that was not finished as failed; what it found stays."""
        round_id = open_round(self.store, self.run_id)
        if round_id is None:
            return
        with self.store.session() as session:
            self.lease.guard(session)
            row = session.get_one(Round, round_id)
            row.error = f"{reason} at {row.stage}"
            row.stage, row.ended_ts = "failed", now_us()
            for search in session.scalars(
                select(SearchRow).where(
                    SearchRow.round_id == round_id, SearchRow.status.in_(("pending", "running"))
                )
            ):
                search.status, search.error = "failed", "the round was given up"
            add_event(session, self.run_id, "round-failed", {"reason": row.error}, round_id)

    def run_round(self) -> Outcome:
        """Finish the open round, or make the next one; taken up again when the store was away.

        Raises StoreAwayError when nothing has got on for as long as the store's patience.
        """
        away_since, place = 0.0, ""
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

    def _place(self) -> str:
        """How far the run has come; empty when the store does not say."""
        try:
            with self.store.session() as session:
                rounds = session.execute(
                    select(Round.number, Round.stage)
                    .where(Round.run_id == self.run_id)
                    .order_by(Round.number.desc())
                ).first()
                ended = session.scalar(
                    select(func.count(SearchRow.ended_ts))
                    .join(Round, Round.id == SearchRow.round_id)
                    .where(Round.run_id == self.run_id)
                )
            return f"{rounds} {ended}"
        except StoreAwayError:
            return ""

    def _run_round(self) -> Outcome:
        round_id = open_round(self.store, self.run_id)
        if round_id is not None and self._lost_models(round_id):
            self.give_up_open_round("its models are damaged")
            round_id = None
        if round_id is None:
            round_id = self._new_round()
        else:
            with self.store.session() as session:
                row = session.get_one(Round, round_id)
                self._check_same_settings(row)
                self.progress.say(f"going on with round {row.number} at {row.stage}")
        if self.heartbeat is not None and self.heartbeat.lost is not None:
            raise self.heartbeat.lost
        return RoundRunner(self.context()).run(round_id)

    def _check_same_settings(self, row: Round) -> None:
        if row.config_sha != self.config.digest():
            raise UsageError(
                f"round {row.number} began with other settings (digest {row.config_sha}, now "
                f"{self.config.digest()})",
                "give the settings it began with, or give it up with --fresh",
            )

    def context(self) -> RunContext:
        """What the parts of this run share, once the hosts have started."""
        assert self.hosts is not None
        hosting = self.config.hosting
        workshop = Workshop(
            hosting.hosting,
            self.folder,
            hosting.threads,
            hosting.device,
            hosting.training_workers,
            len(ROLES) - 1 + hosting.workers,
        )
        return RunContext(
            self.config,
            self.store,
            self.lease,
            self.hosts,
            self.task,
            workshop,
            self.progress,
            self.max_positions,
            self.demonstrations,
        )

    def _new_round(self) -> int:
        refs = self._sound_models() or self.models
        with self.store.session() as session:
            self.lease.guard(session)
            row = Round(
                run_id=self.run_id,
                number=next_number(self.store, self.run_id),
                stage="imagining",
                models={role: ref.version for role, ref in refs.items()},
                search_config=self.config.search.as_dict(),
                config_sha=self.config.digest(),
                timings={},
                started_ts=now_us(),
            )
            session.add(row)
            session.flush()
            add_event(session, self.run_id, "round-started", {"number": row.number}, row.id)
            return row.id

    def _bootstrap(self) -> dict[str, ModelRef]:
        """The models that the next round begins with; missing critics and drafter are made."""
        known = self._sound_models()
        if known is not None:
            return known
        if not self.config.policy:
            self.base = {r: copied(c, self.folder, r) for r, c in self.base.items()}
        refs = {role: as_ref(role, c) for role, c in self.base.items()}
        with self.store.session() as session:
            for role, checkpoint in self.base.items():
                parent = checkpoint.notes.get("parent") if role != "policy" else None
                known_parent = parent == self.base["policy"].version
                register(session, role, checkpoint, parent if known_parent else None)
        if len(refs) < 5:
            refs |= self._first_critics(refs)
        with self.store.session() as session:
            add_event(
                session,
                self.run_id,
                "models",
                {role: ref.version for role, ref in refs.items()},
            )
        return refs

    def _sound_models(self) -> dict[str, ModelRef] | None:
        """The models after the last round; damaged ones are set aside for what came before them."""
        return current_models(self.store, self.run_id, self.progress.say)

    def _first_critics(self, refs: dict[str, ModelRef]) -> dict[str, ModelRef]:
        """Critics and a drafter from the policy, the critics trained on its own texts."""
        assert self.hosts is not None
        context = self.context()
        made = initial_models_job(refs["policy"].path, context.workshop.place)
        with self.store.session() as session:
            for trained in made:
                register_trained(session, trained, None, None)
        refs = refs | {t.role: ModelRef(t.role, t.version, t.path) for t in made}
        if not (self.config.critics.steps and self.config.critics.num_labelled):
            return refs
        teacher = Teacher(context)
        jobs = teacher.critic_jobs(refs, 0, teacher.label(refs, 0))
        self.progress.stage("critics", self.config.critics.steps, "steps")
        results = context.workshop.run(jobs, self.progress) if jobs else []
        trained_critics = teacher.trained_critics(results)
        with self.store.session() as session:
            for trained in trained_critics:
                register_trained(session, trained, None, None)
        return refs | {
            t.role: ModelRef(t.role, t.version, t.path)
            for t in trained_critics
            if t.role in CRITIC_ROLES
        }

    def _release(self) -> None:
        try:
            self.lease.release()
        except StoreAwayError as error:  # it ends by itself, and this host sees the process gone
            self.progress.say(f"warning: {error.message}")
