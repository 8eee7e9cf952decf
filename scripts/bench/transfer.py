"""Do critics that learned one language score another? (Reuse Your Rewards, arXiv 2404.12318)

    python -m scripts.build_embedded languages --out bundles
    python -m scripts.bench.transfer --policy bundles/languages/policy --work transfer
    python -m scripts.bench.transfer --policy DIR --work transfer --loop stories-de --json out.json

One policy answers short stories in English, German and Spanish. The critics of each language learn
from what it samples on labelled problems of that language alone. Then each scores fresh texts in
each language: AUC over all of them, and how often the best of 16 by its score is right. Beside them
stand one sample, the vote of the 16, the shortest and the longest of them, and the policy's own
likelihood. No tool looks at anything. `--loop` runs one round of the product in a language without
a label, its critics from each language in turn; they are not trained on. `--work` keeps critics and
rounds, so that an interrupted study goes on.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.model_refs import CRITIC_ROLES, ModelSet
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.load import load_config
from agent.config.settings import Config
from agent.evaluation.answering import sample_rollouts
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import Speculation
from agent.rounds.label_sampling import LabelSampling
from agent.rounds.run import Improver
from agent.search_models import Models, ModelSettings
from agent.tasks.registry import open_task
from agent.training.drafter import cut_drafter
from agent.training.optimizer import TrainingSettings
from critics.calibration import auc
from scripts.bench.learning import Silent, loop
from scripts.bench.report import Row, share, show, write
from scripts.build_embedded import taught_critics
from search.interfaces import Rollout
from search.settings import SearchSettings

TASKS = {"en": "stories", "de": "stories-de", "es": "stories-es"}
NUM_TEXTS = 16
FRESH_SEED = 20_261_128


@dataclass(frozen=True, slots=True)
class Study:
    policy: Checkpoint
    work: Path
    num_labelled: int
    num_problems: int
    steps: int

    @property
    def digest(self) -> str:
        """Of all that critics and rounds depend on, beside language and seed."""
        told = repr((self.policy.version, self.num_labelled, self.steps))
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def models(self, language: str, critics: dict[str, Checkpoint] | None = None) -> Models:
        """The policy with some critics, in one language, without the tool."""
        refs = {"policy": self.policy.ref("policy")}
        refs |= {role: c.ref(role) for role, c in (critics or {}).items()}
        given = ModelSettings(SearchSettings(), {}, speculation=Speculation("never"))
        task = open_task(Config(task=TASKS[language]))
        models = Models(InlineHosts(HostSettings(threads=1)), ModelSet(refs), task, given)
        models.use_tool = False
        return models

    def critics(self, language: str, seed: int) -> dict[str, Checkpoint]:
        """The critics of one language, taught when they are not there yet."""
        folder = self.work / f"critics-{language}-{seed}-{self.digest}"
        if folder.is_dir():
            return {role: verify_checkpoint(folder / role) for role in CRITIC_ROLES}
        scratch = folder.with_name(f".{folder.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        models = self.models(language)
        problems = models.task.labelled(self.num_labelled, seed)
        labelled = LabelSampling(models, models.task, problems, seed).labelled(8, 2, 5)
        settings = TrainingSettings(
            num_steps=self.steps,
            optimizer="muon",
            learning_rate=1e-3,
            matrix_learning_rate=6e-3,
            max_epochs=8,
        )
        model = load_model(self.policy)
        made = taught_critics(model, self.policy, labelled, settings, seed, scratch, print)
        for role, checkpoint in made.items():
            checkpoint.path.rename(scratch / role)
        scratch.rename(folder)
        return {role: verify_checkpoint(folder / role) for role in made}

    def texts(self, language: str) -> tuple[list[list[Rollout]], list[list[bool]]]:
        """So many texts of each fresh problem, and which are right."""
        models = self.models(language)
        problems = models.task.held_out(self.num_problems, FRESH_SEED)
        groups = sample_rollouts(models, problems, NUM_TEXTS, 1.0, FRESH_SEED)
        answers = {p.id: p.answer or "" for p in problems}
        right = [
            [models.task.is_correct(r.answer, answers[r.state.problem_id]) for r in group]
            for group in groups
        ]
        return groups, right

    def scores(
        self, language: str, critics: dict[str, Checkpoint], groups: Sequence[Sequence[Rollout]]
    ) -> list[list[float | None]]:
        """None of a text that the critic could not score."""
        models = self.models(language, {"outcome": critics["outcome"]})
        told = iter(models.outcome_scores([r.state for group in groups for r in group]))
        return [[next(told).value for _ in group] for group in groups]


def measured(study: Study, seeds: Sequence[int]) -> Iterator[Row]:
    for language in TASKS:
        groups, right = study.texts(language)
        flat_right = [float(y) for group in right for y in group]
        n = len(groups)
        baselines: dict[str, Callable[[Rollout], float]] = {
            "shortest text": lambda r: -len(r.state.tokens),
            "longest text": lambda r: len(r.state.tokens),
            "likeliest text": lambda r: sum(o.logprob for o in r.state.options),
        }
        one = mean(flat_right)
        told = f"one sample {one:.3f}, any of {NUM_TEXTS} {mean(map(any, right)):.3f}"
        votes = [_vote(group) for group in groups]
        picked = _picked(votes, right)
        yield share(f"{language}: vote of {NUM_TEXTS}", sum(picked), n, told)
        for name, key in baselines.items():
            values = [[key(r) for r in group] for group in groups]
            flat = [v for group in values for v in group]
            row = share(f"{language}: {name}", sum(_picked(values, right)), n, told)
            yield row | {"auc": auc(flat, flat_right)}
        for source in TASKS:
            aucs, shares = [], []
            for seed in seeds:
                scores = study.scores(language, study.critics(source, seed), groups)
                told_of = zip([v for vs in scores for v in vs], flat_right, strict=True)
                known = [(v, y) for v, y in told_of if v is not None]
                found = auc([v for v, _ in known], [y for _, y in known])
                aucs += [] if found is None else [found]  # None where all are right, or none is
                shares.append(mean(_picked(scores, right)))
            told_auc = f"{mean(aucs):.3f} [{min(aucs):.3f}, {max(aucs):.3f}]" if aucs else "unknown"
            yield {
                "name": f"{language}: best by {source}'s critic",
                "value": mean(shares),
                "unit": f"right; AUC {told_auc}",
                "low": min(shares),
                "high": max(shares),
                "n": n,
                "baseline": told,
                "auc": aucs,
                "shares": shares,
            }


def _vote(group: Sequence[Rollout]) -> list[float]:
    answers = [r.answer for r in group]
    return [float(answers.count(a)) if a is not None else 0.0 for a in answers]


def _picked(
    values: Sequence[Sequence[float | None]], right: Sequence[Sequence[bool]]
) -> list[bool]:
    """Whether the text of the highest known value is right, the first of equal ones, by problem."""
    found = []
    for group, ys in zip(values, right, strict=True):
        known = [(v, y) for v, y in zip(group, ys, strict=True) if v is not None]
        found.append(bool(known) and max(known, key=lambda pair: pair[0])[1])
    return found


def looped(study: Study, task: str, seed: int, changes: Sequence[str]) -> Iterator[Row]:
    """A round in a language without labels, by the critics of each language, and by none."""
    for source in (*TASKS, "no critic"):
        told = hashlib.sha256(repr(changes).encode()).hexdigest()[:8]
        name = f"loop-{task}-{source.replace(' ', '-')}-{seed}-{study.digest}-{told}"
        folder = study.work / name
        done = folder / "run.json"
        if not done.is_file():
            bundle = folder / "bundle"
            bundle.mkdir(parents=True, exist_ok=True)
            roles = {"policy": study.policy.path}
            critics = study.critics(source if source in TASKS else "en", seed)
            roles |= {role: c.path for role, c in critics.items()}
            # A run has five models; no text depends on this one.
            cut = cut_drafter(load_model(study.policy))
            roles["drafter"] = publish(cut, study.policy, folder, "drafter", {}).path
            for role, path in roles.items():
                if not (bundle / role).exists():
                    (bundle / role).symlink_to(path.resolve())
            config = _config(task, seed, folder, source, changes)
            with Improver(config, Silent()).started() as improver:
                run = loop(improver, config, 1, [])
            done.write_text(json.dumps(run))
        before, after = json.loads(done.read_text())["states"]
        start, end = before["greedy"], after["greedy"]
        finds = {key: after.get(key) for key in ("num_kept", "precision", "verdict", "p", "reason")}
        told = f"{start['correct'] / start['n']:.3f} before; {finds}"
        name = f"a round of {task}, critics: {source}"
        yield share(name, end["correct"], end["n"], told)


def _config(task: str, seed: int, folder: Path, source: str, changes: Sequence[str]) -> Config:
    flags: dict[str, Any] = {
        "task": task,
        "seed": seed,
        "hosting.hosting": "inline",
        "store": f"sqlite:///{folder}/store.db",
        "checkpoints": f"{folder}/checkpoints",
        "bundle": str(folder / "bundle"),
        "critics.use_tool": False,
        "critics.steps": 0,
        "critics.num_labelled": 0,
        "selection.min_precision": 0,
        "selection.min_confidence": 0.6,
        "problems_per_round": 400,
        "training.num_steps": 200,
        "training.drafter_steps": 0,
        "evaluation.num_problems": 600,
        "evaluation.num_search_problems": 0,
    }
    if source not in TASKS:
        flags |= {f"critics.{role}_weight": 0.0 for role in CRITIC_ROLES}
    flags |= dict(text.split("=", 1) for text in changes)
    return load_config(flags)[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps critics and runs")
    parser.add_argument("--labelled", type=int, default=400, help="problems a language")
    parser.add_argument("--problems", type=int, default=300, help="fresh ones a language")
    parser.add_argument("--steps", type=int, default=200, help="of each critic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loop", choices=sorted(TASKS.values()), action="append", default=[])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    study = Study(
        verify_checkpoint(arguments.policy),
        arguments.work.resolve(),
        arguments.labelled,
        arguments.problems,
        arguments.steps,
    )
    seeds = range(arguments.seeds)
    rows: list[Row] = []

    def tell(row: Row) -> None:
        show(row)
        rows.append(row)

    for row in measured(study, seeds):
        tell(row)
    for task in arguments.loop:
        for row in looped(study, task, 0, arguments.set):
            tell(row)
    settings = {k: str(v) for k, v in vars(arguments).items() if k != "json"}
    write(arguments.json, "transfer", settings | {"policy": study.policy.version}, seeds, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
