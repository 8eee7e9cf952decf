"""Teaching a policy the form of answers: supervised fine-tuning on the worked answers of a file.

A pretrained model that was never shown how answers are to be written gives a round nothing to
start from. AlphaLLM's own base was taught so (Tian et al., arXiv 2404.12253).
"""

import hashlib
import math
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.custody import as_new, trained_as_new
from agent.checkpoints.files import read_json
from agent.checkpoints.manifest import MANIFEST, write_manifest
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.trained import Trained
from agent.config.settings import Config
from agent.engine.tokenizer import Tokenizer
from agent.evaluation.answering import Plan, benchmark_digest, evaluate
from agent.hosting.open_hosts import open_hosts
from agent.progress import Progress
from agent.prompts import Prompts, check_prompts
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from agent.tasks.task import Demonstration, Task
from agent.training.examples import Example
from agent.training.job import Place, TrainingJob
from agent.training.methods.sft import SftJob
from agent.training.methods.trl_sft import TrlSftJob
from agent.training.mixture import with_dev
from agent.training.optimizer import TrainingSettings
from agent.training.recipe import check_adapters, own_lora_rank, pretrained_rate
from agent.training.rehearsal import demonstration_example, write_demonstrations
from agent.training.runner import run_job
from agent.training.trl_trainer import AdapterSettings
from agent.trial import check_memory
from search.errors import TaskError, UsageError
from search.randomness import derive_seed
from store.checkpoints import register
from store.database import Store
from store.evaluations import Evaluation, EvaluationKey, find_evaluation, record_evaluation


@dataclass(frozen=True, slots=True)
class Course:
    """How the policy is taught."""

    epochs: float = 4.0
    batch_size: int = 32
    learning_rate: float | None = None
    """None: by the size of the model."""
    num_problems: int = 200
    """Held-out problems answered before and after; 0: none."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """What there is to learn, in the policy's tokens."""

    demonstrations: list[Demonstration]
    texts: list[Example]
    notes: list[str]
    """What a user should know of rows that were left out."""


@dataclass(frozen=True, slots=True)
class Taught:
    checkpoint: Checkpoint
    report: dict[str, Any]
    before: Evaluation | None
    after: Evaluation | None
    notes: list[str]
    seconds: float
    """Of the training alone; 0 where the folder held its result already."""
    num_tokens: int
    """That the training read, all epochs together."""


def teach(config: Config, folder: Path, course: Course, store: Store, progress: Progress) -> Taught:
    """Teach `config.policy` the task's worked answers and publish the result as `folder`.

    Everything is recorded in the store. Given again after a kill, the same command goes on from the
    last state that was written, and comes to the same weights. Raises UsageError, TaskError,
    CheckpointError, ResourceError, DivergedError.
    """
    task = open_task(config)
    parent = policy_at(Path(config.policy).expanduser())
    check_adapters(config.training, parent)
    check_memory(parent, config, is_alone=True)
    prompts = check_prompts(task, Tokenizer(parent.path), config.prompt)
    lessons = lessons_of(task, prompts, parent.architecture.max_positions)
    problems = _problems(task, course, config)
    job = job_of(config, course, parent, lessons.texts)
    digest = _digest(job)
    is_there = folder.exists()
    if is_there and _job_of(folder) != digest:
        raise UsageError(f"{folder} is already there", "give a new folder with --out, or remove it")
    for note in (*task.notes(), *lessons.notes):
        progress.say(note)
    with store.session() as session:
        register(session, as_new("policy", parent, None))
    before = measured(config, task, parent, problems, store, progress)
    curve, seconds = [], 0.0
    if not is_there:
        began = time.monotonic()
        curve = _trained(job, digest, lessons, folder, config, progress)
        seconds = time.monotonic() - began
    checkpoint = verify_checkpoint(folder)
    with store.session() as session:
        new = Trained.of("policy", checkpoint, parent.version, checkpoint.report, curve)
        register(session, trained_as_new(new))
    after = measured(config, task, checkpoint, problems, store, progress)
    num_tokens = round(course.epochs * sum(len(text.tokens) for text in lessons.texts))
    return Taught(checkpoint, checkpoint.report, before, after, lessons.notes, seconds, num_tokens)


def _trained(
    job: TrainingJob,
    digest: str,
    lessons: Lessons,
    folder: Path,
    config: Config,
    progress: Progress,
) -> list[tuple[int, float]]:
    """Run the job and give its checkpoint the folder's name; the loss by step."""
    work = folder.parent / f".teaching {digest}"
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(job, SftJob):
        job = replace(job, resume_file=str(work / "state.safetensors"))
    pictures = str(config.hosting.pictures_folder)
    place = Place(str(work), config.hosting.threads, config.hosting.device, pictures=pictures)
    trained = run_job(job, place, progress)
    made = Path(trained.path)
    write_demonstrations(made, lessons.demonstrations, config.seed)
    facts = {k: v for k, v in read_json(made, MANIFEST).items() if k != "files"}
    write_manifest(made, facts | {"taught": digest})
    os.replace(made, folder)
    for adapter in work.glob("adapter-*"):
        os.replace(adapter, folder.with_name(f"{folder.name}-adapter"))
    shutil.rmtree(work, ignore_errors=True)
    return trained.curve


def _job_of(folder: Path) -> str:
    """Digest of the job that a folder is the result of; empty for any other folder."""
    if not (folder / MANIFEST).is_file():
        return ""
    return str(read_json(folder, MANIFEST).get("taught", ""))


def lessons_of(task: Task, prompts: Prompts, max_positions: int) -> Lessons:
    """The task's worked answers that may be learned from and fit the context.

    Raises TaskError where there are none.
    """
    shown = task.lessons()
    if not shown:
        raise TaskError(
            f"task {task.name!r} has no worked answers to teach",
            'give --problems rows such as {"question": "...", "answer": "step\\nstep\\n#### 5"}',
        )
    found, texts = [], []
    without = long = 0
    for lesson in shown:
        if task.answer_of(lesson.steps) is None:
            without += 1
            continue
        text = demonstration_example(prompts, lesson.problem.text, lesson.steps)
        if len(text.tokens) > max_positions:
            long += 1
            continue
        found.append(lesson)
        texts.append(text)
    notes = [
        note
        for num, note in (
            (without, f"{without} worked answers say no final answer and are left out"),
            (long, f"{long} worked answers do not fit the context and are left out"),
        )
        if num
    ]
    if not texts:
        raise TaskError(
            f"none of {len(shown)} worked answers can be taught: {'; '.join(notes)}",
            "end each with a line '#### ' and the answer, or use a policy with a longer context",
        )
    return Lessons(found, texts, notes)


def job_of(config: Config, course: Course, parent: Checkpoint, texts: list[Example]) -> TrainingJob:
    """The training job: our loop or TRL, all weights or LoRA."""
    training = config.training
    rate = course.learning_rate or pretrained_rate(parent, training.lora_rank)
    learned, dev = (texts, []) if training.trainer == "trl" else with_dev(texts)
    settings = TrainingSettings(
        num_steps=max(1, math.ceil(course.epochs * len(learned) / course.batch_size)),
        batch_size=course.batch_size,
        learning_rate=rate,
        optimizer="adamw",
        max_epochs=course.epochs,
        dtype=training.dtype,
        lora_rank=own_lora_rank(training),
    )
    seed = derive_seed(config.seed, parent.version, "teach") % 2**31
    given: dict[str, Any] = {
        "role": "policy",
        "parent": str(parent.path),
        "settings": settings,
        "seed": seed,
        "examples": learned,
    }
    if training.trainer == "trl":
        return TrlSftJob(**given, adapter=AdapterSettings.of(training))
    return SftJob(**given, dev=dev)


def _digest(job: TrainingJob) -> str:
    """Tells the work folders of different jobs apart."""
    return hashlib.sha256(repr(job).encode()).hexdigest()[:16]


def _problems(task: Task, course: Course, config: Config) -> list[Any]:
    if not course.num_problems:
        return []
    return task.held_out(course.num_problems, config.evaluation.seed)


def measured(
    config: Config,
    task: Task,
    policy: Checkpoint,
    problems: list[Any],
    store: Store,
    progress: Progress,
) -> Evaluation | None:
    """Greedy accuracy on held-out problems; what the store knows is not measured again."""
    if not problems:
        return None
    hosts = open_hosts(config.hosting)
    try:
        models = Models(
            hosts, ModelSet({"policy": policy.ref("policy")}), task, ModelSettings.of(config)
        )
        plan = Plan("greedy")
        key = EvaluationKey(
            {"policy": policy.version}, plan.settings(models), benchmark_digest(problems)
        )
        with store.session() as session:
            known = find_evaluation(session, key)
        if known is not None:
            return known
        progress.stage("evaluating", len(problems), "held-out problems, greedy")
        found = evaluate(
            models,
            problems,
            plan,
            config.hosting.cohort,
            lambda done, solved: progress.update(done, solved=solved),
        )
        with store.session() as session:
            record_evaluation(session, key, found, None, problems, config.task)
        return found
    finally:
        hosts.close()
