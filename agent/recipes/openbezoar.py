"""OpenBezoar's recipe (Dissanayake et al., arXiv 2404.12195) at the size at hand.

1. Three kinds of rows, each written by a model and filtered by a judge: in the manner of examples
   (LaMini), made harder or rarer (Evol-Instruct), and worked answers under system messages (Orca).
2. Supervised fine-tuning with adapters, one kind after the other; the adapters are merged between.
3. Fine-tuning on preferred answers, so that what follows begins near them.
4. DPO on preferred answers against others, an epoch.

Every step publishes a checkpoint and is measured on the same held-out problems. Where the paper's
preferences are people's (HH-RLHF), a file may give them; without one they are the policy's own
right texts on problems with known answers against its wrong ones.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.merging import merge_into
from agent.checkpoints.publish import sweep
from agent.config.endpoint import is_served
from agent.config.settings import MANY, Config
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.answering import sample_rollouts
from agent.imagination.decontamination import Decontamination
from agent.imagination.judge import opened_judge
from agent.open_models import opened_over
from agent.progress import Progress
from agent.prompts import check_prompts
from agent.recipes.written_rows import ORCA, Scribe, Writing, save_rows
from agent.search_models import Models
from agent.tasks.registry import open_task
from agent.teach import Course, job_of, measured
from agent.training.examples import Example, PairExample
from agent.training.job import Place, TrainingJob
from agent.training.methods.dpo import DpoJob, PreferenceSettings
from agent.training.methods.trl_dpo import TrlDpoJob
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import check_adapters, own_lora_rank, pretrained_rate
from agent.training.runner import run_job
from agent.training.trl_trainer import AdapterSettings
from agent.trial import check_memory
from search.errors import CheckpointError, TaskError, UsageError
from search.randomness import derive_seed
from search.state import Problem
from store.database import Store
from store.evaluations import Evaluation
from store.leases import owner_name

KINDS = {"1-lamini": ("lamini",), "2-evol": ("evol-deepen", "evol-widen"), "3-orca": (ORCA,)}
"""Steps of supervised fine-tuning, in order, and the schemes of their rows."""
SHIFT, DPO = "4-preferred", "5-dpo"
REPORT = "recipe.json"
LEAST_ROWS = 4
"""Fewer teach nothing: the step is left out, and says so."""
MOST_PAIRS = 2
"""Of one problem."""


@dataclass(frozen=True, slots=True)
class RecipePlan:
    num_texts: int = 200
    """Rows that each scheme is asked for."""
    epochs: float = 2.0
    """Of each fine-tuning; DPO takes one."""
    batch_size: int = 16
    samples: int = 4
    """Texts of each problem that preferences are looked for in."""
    preferences: str = ""
    """File of rows with prompt, chosen and rejected; empty: the policy's own texts."""
    num_problems: int = 200
    """Held-out problems answered after every step; 0: none."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step came to."""

    name: str
    num_rows: int
    """Texts, or pairs, learned from."""
    skipped: str = ""
    """Why nothing was trained; empty where something was."""
    version: str = ""
    path: str = ""
    refused: dict[str, int] | None = None
    """Texts that were written and are no rows, by reason."""
    first_loss: float | None = None
    last_loss: float | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    prompt: str
    chosen: str
    rejected: str


class OpenBezoar:
    """One run of the recipe in a folder of its own; a second call goes on where it stopped."""

    def __init__(
        self, config: Config, folder: Path, plan: RecipePlan, store: Store, progress: Progress
    ) -> None:
        """Raises UsageError, TaskError, CheckpointError, ResourceError before anything is done."""
        self.config, self.folder, self.plan = config, folder.expanduser().resolve(), plan
        self.store, self.progress = store, progress
        self.task = open_task(config)
        self.base = policy_at(Path(config.policy).expanduser())
        check_adapters(config.training, self.base)
        if self.base.adapter is not None:
            raise CheckpointError(
                f"{self.base.path} holds adapters", "merge them first: ratchet models merge"
            )
        check_memory(self.base, config, is_alone=True)
        self.prompts = check_prompts(self.task, Tokenizer(self.base.path), config.prompt)
        self.held_out = self.task.held_out(MANY, self.config.evaluation.seed)
        self.guard = Decontamination(self.held_out, self.task.key)
        self.given = self._problems()
        self.preferred = self._given_preferences() if plan.preferences else None
        self.writer = self._writer()
        judge = config.imagination.judge
        self.judge = policy_at(Path(judge).expanduser()) if judge and not is_served(judge) else None
        self._claim()

    def _is_free(self, text: str) -> bool:
        """Whether a text may be learned from: no held-out problem, and none given away."""
        return not self.task.keeps_out(self.task.key(text)) and not self.guard.leak(text)

    def _given_preferences(self) -> list[Preference]:
        found = read_preferences(Path(self.plan.preferences))
        free = [p for p in found if self._is_free(p.prompt)]
        if len(free) < len(found):
            left = len(found) - len(free)
            self.progress.say(f"{left} preferences give held-out problems away and are left out")
        return free

    def _writer(self) -> Checkpoint:
        """What writes rows. Raises CheckpointError for one with another tokenizer: what it writes
        is read by the policy."""
        if not self.config.imagination.writer:
            return self.base
        found = policy_at(Path(self.config.imagination.writer).expanduser())
        ours, theirs = (c.path / "tokenizer.json" for c in (self.base, found))
        if ours.read_bytes() != theirs.read_bytes():
            raise CheckpointError(
                f"{found.path} (--writer) has another tokenizer than the policy",
                "give a model of the policy's family, or leave --writer out",
            )
        return found

    def _problems(self) -> list[Problem]:
        known = self.task.given(self.config.seed) or self.task.seeds(2_000, self.config.seed)
        found = [p for p in known if self._is_free(p.text)]
        if len(found) < LEAST_ROWS:
            raise TaskError(
                f"there are {len(found)} problems to write others from",
                f"give --problems with {LEAST_ROWS} or more that are not held out",
            )
        return found

    def _claim(self) -> None:
        """The folder belongs to one policy, plan and settings."""
        config = self.config
        models = [c.version for c in (self.base, self.writer, self.judge) if c is not None]
        problems = [(p.text, p.answer) for p in (*self.given, *self.held_out)]
        told = repr((models, self.plan, self.preferred, problems, config.seed, config.answers))
        told += repr((config.training, config.imagination, config.prompt, config.evaluation.seed))
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        file = self.folder / REPORT
        try:
            if not file.is_file():
                if self.folder.is_dir() and any(self.folder.iterdir()):
                    raise UsageError(f"{self.folder} is not empty", "give a new folder with --out")
                # The file comes with the folder, so that no other begins in what a kill left.
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                sweep(self.folder.parent)
                name = f".writing {owner_name()} {uuid.uuid4().hex}"
                scratch = self.folder.parent / name
                scratch.mkdir()
                plan = {"recipe": digest, "plan": asdict(self.plan)}
                (scratch / REPORT).write_text(json.dumps(plan))
                os.replace(scratch, self.folder)
            known = json.loads(file.read_text())["recipe"]
            (self.folder / "rows").mkdir(exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"{self.folder} cannot be written: {error.strerror}", "give a new folder with --out"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file} is no recipe's report", "give a new folder with --out"
            ) from error
        if known != digest:
            raise UsageError(
                f"{self.folder} holds another recipe's steps: other models, rows or settings",
                "give a new folder with --out, or the command that it was begun with",
            )

    def run(self) -> Iterator[Step]:
        """Each step when it is done, the policy as it came first."""
        policy = self.base
        before = Step("0-base", 0, version=policy.version, path=str(policy.path))
        yield replace(before, evaluation=self._measured(policy))
        for name, schemes in KINDS.items():
            writings = [self._written(scheme) for scheme in schemes]
            rows = [row for writing in writings for row in writing.rows]
            refused: dict[str, int] = {}
            for writing in writings:
                for reason, num in writing.refused.items():
                    refused[reason] = refused.get(reason, 0) + num
            texts = self._examples([(row.question, row.answer) for row in rows])
            refused |= _too_long(rows, texts)
            step, policy = self._taught(name, policy, texts)
            yield replace(step, refused=refused)
        preferences = self._preferences(policy)
        texts = self._examples([(p.prompt, p.chosen) for p in preferences])
        step, policy = self._taught(SHIFT, policy, texts)
        yield replace(step, refused=_too_long(preferences, texts))
        pairs = self._pairs(preferences)
        step, policy = self._preferring(policy, pairs)
        yield replace(step, refused=_too_long(preferences, pairs))

    # --- rows ---

    def _written(self, scheme: str) -> Writing:
        """Rows of a scheme, from the file where they were written before."""
        file = self.folder / "rows" / f"{scheme}.jsonl"
        if not file.is_file():
            self.progress.stage("writing", self.plan.num_texts, f"rows by {scheme}")
            with self._models(self.base) as models:
                settings = self.config.imagination
                writer = self.writer.ref("policy")
                judge = opened_judge(settings.judge, settings.judge_model, models, writer)
                scribe = Scribe(models, writer, judge, self.held_out, self.config.seed)
                writing = scribe.written(scheme, self.given, self.plan.num_texts)
            writing.save(file)
            self.progress.update(len(writing.rows))
        return Writing.read(file)

    def _examples(self, rows: Sequence[tuple[str, str]]) -> list[Example]:
        """Rows as the policy reads them, those that fit its context."""
        found = []
        for question, answer in rows:
            try:
                prompt = self.prompts.tokens(question)
            except TaskError:
                continue
            worked = self.prompts.tokenizer.encode(answer, is_start=False)
            example = Example((*prompt, *worked, self.prompts.end_id), len(prompt))
            if len(example.tokens) <= self.base.architecture.max_positions:
                found.append(example)
        return found

    def _preferences(self, policy: Checkpoint) -> list[Preference]:
        """Those of the file, or the policy's right texts against its wrong ones."""
        if self.preferred is not None:
            return self.preferred
        file = self.folder / "rows" / "preferences.jsonl"
        if not file.is_file():
            problems = [p for p in self.given if p.answer is not None][: self.plan.num_texts]
            self.progress.stage("sampling", len(problems), "problems for preferences")
            with self._models(policy) as models:
                found = own_preferences(models, problems, self.plan.samples, self.config.seed)
            save_rows(file, [asdict(p) for p in found])
        return read_preferences(file, may_be_empty=True)

    # --- training ---

    def _taught(
        self, name: str, policy: Checkpoint, texts: list[Example]
    ) -> tuple[Step, Checkpoint]:
        def made() -> TrainingJob:
            course = Course(self.plan.epochs, self.plan.batch_size)
            return job_of(self.config, course, policy, texts)

        return self._stepped(name, policy, len(texts), made)

    def _preferring(
        self, policy: Checkpoint, pairs: Sequence[PairExample]
    ) -> tuple[Step, Checkpoint]:
        def made() -> TrainingJob:
            rank = own_lora_rank(self.config.training)
            settings = TrainingSettings(
                num_steps=max(1, 2 * len(pairs) // self.plan.batch_size),
                batch_size=self.plan.batch_size,
                # A tenth of fine-tuning's rate: DPO goes far on few pairs.
                learning_rate=pretrained_rate(policy, self.config.training.lora_rank) / 10,
                max_epochs=1.0,
                dtype=self.config.training.dtype,
                lora_rank=rank,
            )
            training = self.config.training
            given: dict[str, Any] = {
                "role": "policy",
                "parent": str(policy.path),
                "settings": settings,
                "seed": derive_seed(self.config.seed, policy.version, "dpo") % 2**31,
                "pairs": pairs,
            }
            if training.trainer == "trl":
                return TrlDpoJob(**given, adapter=AdapterSettings.of(training), beta=training.beta)
            preference = PreferenceSettings(beta=training.beta, sft_weight=0.0)
            return DpoJob(**given, texts=(), preference=preference)

        return self._stepped(DPO, policy, len(pairs), made)

    def _pairs(self, preferences: Sequence[Preference]) -> list[PairExample]:
        found = []
        for p in preferences:
            both = self._examples([(p.prompt, p.chosen), (p.prompt, p.rejected)])
            if len(both) == 2:
                given = both[0].num_prompt
                chosen, rejected = (e.tokens[given:] for e in both)
                found.append(PairExample(both[0].tokens[:given], chosen, rejected))
        return found

    def _stepped(
        self, name: str, policy: Checkpoint, num: int, made: Callable[[], TrainingJob]
    ) -> tuple[Step, Checkpoint]:
        """Train a step's job, merge what it learned, measure it; what is there stays."""
        if num < LEAST_ROWS:
            why = f"{num} rows, and {LEAST_ROWS} are the least"
            return Step(name, num, why, policy.version, str(policy.path)), policy
        target, work = self.folder / name, self.folder / f".{name}"
        shutil.rmtree(work, ignore_errors=True)
        if not target.exists():
            job = made()
            work.mkdir()
            self.progress.stage("training", job.settings.num_steps, f"steps of {name}")
            hosting = self.config.hosting
            pictures = str(hosting.pictures_folder)
            place = Place(str(work), hosting.threads, hosting.device, pictures=pictures)
            trained = run_job(job, place, self.progress)
            if verify_checkpoint(trained.path).adapter is not None:
                merge_into(Path(trained.path), target)
            else:
                os.replace(trained.path, target)
            shutil.rmtree(work, ignore_errors=True)
        checkpoint = verify_checkpoint(target)
        report: dict[str, Any] = checkpoint.report
        step = Step(
            name,
            num,
            "",
            checkpoint.version,
            str(target),
            None,
            report.get("first_loss"),
            report.get("last_loss"),
            self._measured(checkpoint),
        )
        return step, checkpoint

    # --- models ---

    def _models(self, policy: Checkpoint) -> AbstractContextManager[Models]:
        return opened_over(self.config, {"policy": policy.ref("policy")}, self.task)

    def _measured(self, policy: Checkpoint) -> Evaluation | None:
        num = self.plan.num_problems
        problems = self.task.held_out(num, self.config.evaluation.seed) if num else []
        return measured(self.config, self.task, policy, problems, self.store, self.progress)


def _too_long(rows: Sequence[Any], left: Sequence[Any]) -> dict[str, int]:
    """Rows that the policy cannot read whole, by that reason."""
    num = len(rows) - len(left)
    return {"longer than the context": num} if num else {}


def own_preferences(
    models: Models, problems: Sequence[Problem], samples: int, seed: int
) -> list[Preference]:
    """A right and a wrong text of each problem that has both, two pairs a problem at most."""
    found: list[Preference] = []
    groups = sample_rollouts(models, problems, samples, 1.0, seed)
    for problem, group in zip(problems, groups, strict=True):
        right: dict[str, None] = {}
        wrong: dict[str, None] = {}
        for rollout in group:
            if not rollout.state.is_finished:
                continue
            text = "".join(option.text for option in rollout.state.options)
            is_right = models.task.is_correct(rollout.answer, problem.answer or "")
            (right if is_right else wrong)[text] = None
        for chosen, rejected in list(zip(right, wrong, strict=False))[:MOST_PAIRS]:
            found.append(Preference(problem.text, chosen, rejected))
    return found


def read_preferences(path: Path, may_be_empty: bool = False) -> list[Preference]:
    """Rows {"prompt", "chosen", "rejected"}, a line each. Raises TaskError naming the line."""
    try:
        lines = path.expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"preferences {path} cannot be read: {error}", "give a file") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            texts = [row["prompt"], row["chosen"], row["rejected"]]
        except (ValueError, KeyError, TypeError) as error:
            raise TaskError(
                f"{path}, line {number}: no row with prompt, chosen and rejected",
                'write {"prompt": "...", "chosen": "...", "rejected": "..."} on each line',
            ) from error
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise TaskError(f"{path}, line {number}: a text is empty or no text", "write all three")
        if texts[1] == texts[2]:
            raise TaskError(f"{path}, line {number}: chosen and rejected are equal", "leave it out")
        found.append(Preference(*texts))
    if not found and not may_be_empty:
        raise TaskError(f"{path} has no preferences", "give rows, or leave --preferences out")
    return found
