"""Pictures: reading, search over readings, drafts by a policy that sees none, and their verifier.

    python -m scripts.bench.pictures --policy bundles/pictures/policy --work pictures
    python -m scripts.bench.pictures --only drafts --seeds 3 --json pictures.json

Problems are held-out ones of `pictures` (5 to 7 operators). Parts:

verifier  how often drawing a reading again accepts the right one, and a wrong one.
search    right answers and right readings: greedy, majority of samples, samples until one is sound,
          and the search, at equal mean numbers of tokens that the policy reads.
drafts    a text drafter that is told only the words, by line: the reading, and all others. Block
          efficiency is tokens a policy forward, at 3 and 5 drafted tokens, with every text equal to
          the one without drafts.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from agent.checkpoints.checkpoint import Checkpoint, verify_checkpoint
from agent.checkpoints.model_refs import ModelSet
from agent.checkpoints.publish import publish
from agent.checkpoints.weights import load_model
from agent.config.load import load_config
from agent.engine.draft_choice import Drafter
from agent.engine.drafting import ModelDrafts
from agent.engine.job_cache import Cache
from agent.engine.requests import CompletionRequest, Generated
from agent.evaluation.answering import sample_rollouts
from agent.hosting.inline_hosts import InlineHosts
from agent.hosting.model_host import HostSettings
from agent.hosting.policy_host import PolicyHost
from agent.pictures.comparison import Compared, one_change
from agent.pictures.preprocessing import give_pictures
from agent.search_models import Models, ModelSettings
from agent.tasks.pictures import GROUPS, Pictures, drawn
from agent.training.drafter import cut_drafter, distil
from agent.training.examples import Example
from agent.training.initial import initial_models
from agent.training.job import Place
from agent.training.optimizer import TrainingSettings
from scripts.bench import arms
from scripts.bench.report import Row, counted, repeats, share, show, write
from search.interfaces import Rollout
from search.state import Problem

BUDGETS = (64, 128, 256)
DRAFTED = (3, 5)
HEAT = 1.0


@dataclass(frozen=True, slots=True)
class Study:
    policy: Checkpoint
    work: Path
    num_problems: int

    @property
    def folder(self) -> Path:
        return self.work / "pictures"

    @property
    def task(self) -> Pictures:
        return Pictures(self.folder)

    def problems(self, seed: int) -> list[Problem]:
        return self.task.held_out(self.num_problems, 20_261_128 + seed)

    def models(self, use_tool: bool = True) -> Models:
        """The policy with critics that have learned nothing: the tool leads the search."""
        refs = {"policy": self.policy.ref("policy")}
        folder = self.work / "untaught"
        if not folder.is_dir():
            made = initial_models(refs["policy"], Place(str(folder)))
            (folder / "done").write_text(json.dumps({m.role: m.path for m in made}))
        paths = json.loads((folder / "done").read_text())
        refs |= {role: verify_checkpoint(path).ref(role) for role, path in paths.items()}
        config = load_config({"task": "pictures", "hosting.speculation": "never"})[0]
        given = ModelSettings.of(config)
        hosts = InlineHosts(HostSettings(threads=1, pictures=str(self.folder)))
        models = Models(hosts, ModelSet(refs), self.task, given)
        models.use_tool = use_tool
        return models


def verifier(study: Study, seed: int) -> Iterator[Row]:
    rng = random.Random(seed)
    right = wrong = shorter = 0
    seconds = []
    problems = study.problems(seed)
    for problem in problems:
        text = problem.text
        began = time.process_time()
        compared = Compared(drawn(text))
        right += compared.verdict(text, one_change(text, GROUPS)).is_same is True
        seconds.append(time.process_time() - began)
        at = rng.randrange(len(text))
        group = next(g for g in GROUPS if text[at] in g)
        other = text[:at] + rng.choice([c for c in group if c != text[at]]) + text[at + 1 :]
        wrong += compared.verdict(other, one_change(other, GROUPS)).is_same is True
        less = text[:at] + text[at + 2 :] if at % 2 == 0 else text[: at - 1] + text[at + 1 :]
        shorter += compared.verdict(less, one_change(less, GROUPS)).is_same is True
    n = len(problems)
    yield share("verifier: right readings that it accepts", right, n, "1 wanted")
    yield share("verifier: readings with another character", wrong, n, "accepted; 0 wanted")
    yield share("verifier: readings less two characters", shorter, n, "accepted; 0 wanted")
    yield repeats("verifier: a reading", seconds, "CPU s", "-")


def reading_of(rollout: Rollout) -> str:
    return rollout.state.steps[0].strip() if rollout.state.steps else ""


def searched(study: Study, seed: int) -> Iterator[Row]:
    problems = study.problems(seed)
    n, top = len(problems), max(BUDGETS)
    models = study.models()
    (greedy,) = zip(*sample_rollouts(models, problems, 1, 0.0, seed), strict=True)
    read = sum(reading_of(r) == p.text for r, p in zip(greedy, problems, strict=True))
    yield share("greedy: readings", read, n, "-")
    plain = study.models(use_tool=False)
    samples = arms.sampled(plain, problems, top, seed)
    settings = arms.unlimited(models.settings, top)
    ways: dict[str, arms.Curves] = {
        "greedy": arms.greedy(plain, problems),
        "majority of samples": arms.vote(samples, lambda _: 1.0),
        "samples until one is sound": arms.until_sound(models, problems, top, seed),
        "search": arms.searched(models, problems, settings, seed)[0],
    }
    for name, curves in ways.items():
        for budget in BUDGETS:
            points = curves.best(budget)
            right = sum(arms.solved(models, problems, points))
            told = f"{mean(p.tokens for p in points):.0f} tokens"
            yield share(f"{name} @{budget}", right, n, told)
    plain.hosts.close()
    models.hosts.close()


def drafted(study: Study, seed: int) -> Iterator[Row]:
    """The drafter is the policy's first layers, taught on its texts and told no picture."""
    host = PolicyHost("policy", HostSettings(pictures=str(study.folder)))
    ref = study.policy.ref("policy")
    models = study.models()
    lessons = study.task.seeds(800, seed)
    rollouts = [r for g in sample_rollouts(models, lessons, 2, HEAT, seed) for r in g]
    texts = [Example(r.state.tokens, len(r.state.prompt_tokens)) for r in rollouts]
    policy = load_model(study.policy)
    give_pictures(policy, study.policy, str(study.folder))
    drafter = cut_drafter(policy)
    settings = TrainingSettings(
        num_steps=400,
        batch_size=48,
        optimizer="muon",
        learning_rate=1e-3,
        matrix_learning_rate=6e-3,
        max_epochs=20,
    )
    distil(policy, drafter, texts, settings, seed)
    made = publish(drafter, study.policy, study.work, "drafter", {})
    engine = host._model(ref)
    network = PolicyHost("drafter", HostSettings())._model(made.ref("drafter")).network
    problems = study.problems(seed)
    for heat in (0.0, HEAT):
        asked = [
            CompletionRequest(models.root(p).tokens, 160, heat, i) for i, p in enumerate(problems)
        ]
        plain = [c.generated for c in engine.completions(asked)]
        for length in DRAFTED:
            source = _Counted(ModelDrafts(network, made.version, 2**24))
            draft = Drafter([source], length, "always")
            found = engine.completions(asked, draft)
            differ = sum(c.generated != p for c, p in zip(found, plain, strict=True))
            name = f"T = {heat:g}, {length} drafted"
            yield counted(f"texts that differ, {name}", differ, "texts", len(asked), "no drafts")
            newline = 2
            for line, is_first in (("reading", True), ("other lines", False)):
                kept, tried = source.accepted(asked, plain, newline, is_first)
                yield share(f"accepted of the {line}, {name}", kept, max(1, tried), "drafted ones")
            steps = source.num_steps(asked, plain)
            written = sum(len(g.tokens) for g in plain)
            bytes_share = drafter_share(network, engine.network)
            block = written / max(1, steps)
            bound = block / (1 + length * bytes_share)
            yield {
                "name": f"block efficiency, {name}",
                "value": block,
                "unit": "tokens a policy forward",
                "n": len(asked),
                "baseline": f"1; memory-bound speed-up {bound:.2f} (drafter {bytes_share:.2f} of "
                "the policy's bytes)",
            }
    models.hosts.close()


def drafter_share(drafter: Any, policy: Any) -> float:
    """Numbers in the blocks and embeddings of one against the other's."""
    sizes = [
        sum(t.numel() for layer in network.layers for t in _tensors(layer))
        + network.embedding.numel()
        for network in (drafter, policy)
    ]
    return sizes[0] / sizes[1]


def _tensors(layer: Any) -> list[torch.Tensor]:
    values = (getattr(layer, name) for name in layer.__dataclass_fields__)
    return [v for v in values if isinstance(v, torch.Tensor)]


class _Counted:
    """A source of drafts that remembers what it proposed where."""

    name = "model"
    least_columns = 0

    def __init__(self, source: ModelDrafts) -> None:
        self.source = source
        self.drafts: dict[tuple[CompletionRequest, int], list[int]] = {}

    def for_short_texts(self) -> "_Counted":
        return self

    def draft(
        self,
        requests: Sequence[CompletionRequest],
        done: Sequence[Sequence[int]],
        lengths: Sequence[int],
        cache: Cache | None = None,
    ) -> list[list[int]]:
        found = self.source.draft(requests, done, lengths, cache)
        for request, text, draft in zip(requests, done, found, strict=True):
            if draft:
                self.drafts[request, len(text)] = draft
        return found

    def _told(
        self, asked: Sequence[CompletionRequest], plain: Sequence[Generated]
    ) -> Iterator[tuple[int, list[int], tuple[int, ...]]]:
        texts = {r: g.tokens for r, g in zip(asked, plain, strict=True)}
        for (request, start), draft in self.drafts.items():
            if request in texts:
                yield start, draft, texts[request]

    def accepted(
        self,
        asked: Sequence[CompletionRequest],
        plain: Sequence[Generated],
        newline: int,
        is_first: bool,
    ) -> tuple[int, int]:
        """Kept and tried tokens of the first line or of the others: up to the first wrong one."""
        kept = tried = 0
        for start, draft, text in self._told(asked, plain):
            end = text.index(newline) if newline in text else len(text)
            for i, token in enumerate(draft[: len(text) - start]):
                if (start + i <= end) == is_first:
                    tried += 1
                    kept += token == text[start + i]
                if token != text[start + i]:
                    break
        return kept, tried

    def num_steps(self, asked: Sequence[CompletionRequest], plain: Sequence[Generated]) -> int:
        """Policy forwards: one for each draft, and one for the first token of each text."""
        return len(list(self._told(asked, plain))) + len(asked)


PARTS: dict[str, Callable[[Study, int], Iterator[Row]]] = {
    "verifier": verifier,
    "search": searched,
    "drafts": drafted,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps pictures and drafters")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--only", choices=PARTS, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.work.mkdir(parents=True, exist_ok=True)
    study = Study(verify_checkpoint(given.policy), given.work.resolve(), given.problems)
    rows: list[Row] = []
    for seed in range(given.seeds):
        for name in given.only or PARTS:
            for row in PARTS[name](study, seed):
                row = row | {"name": f"{row['name']}, seed {seed}"}
                show(row)
                rows.append(row)
    settings = {"policy": study.policy.version, "problems": given.problems}
    write(given.json, "pictures", settings, range(given.seeds), rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
