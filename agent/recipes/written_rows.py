"""Rows that a model writes by one scheme: a question, a worked answer, and a judge's yes."""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.checkpoints.model_refs import ModelRef
from agent.engine.requests import CompletionRequest
from agent.imagination.imagine import Imagination, Wanted
from agent.imagination.judge import Judge
from agent.imagination.written import REFUSED, Writer
from agent.search_models import Models
from agent.tasks.rewritings import SYSTEM_MESSAGES
from search.randomness import derive_seed
from search.state import Problem

ORCA = "orca"
SCHEMES = ("lamini", "evol-deepen", "evol-widen", ORCA)
TRIES = 4
"""Texts that are asked for each row wanted, at most."""
PORTION = 50
"""Texts that are asked for and judged together."""
IS_RIGHT = (
    "Problem: {question}\n\nSolution: {answer}\n\nIs this solution complete and right? "
    "Answer yes or no.\n\nAnswer:"
)


@dataclass(frozen=True, slots=True)
class WrittenRow:
    question: str
    """As the policy is asked it, a system message before it under orca."""
    answer: str
    """The worked answer, a step a line."""
    scheme: str


@dataclass(frozen=True, slots=True)
class Writing:
    """What a scheme came to."""

    scheme: str
    rows: list[WrittenRow]
    refused: dict[str, int]
    """Texts that are no rows, by reason."""

    def save(self, path: Path) -> None:
        """One row a line behind the counts; the file is there when it is whole."""
        save_rows(path, [{"scheme": self.scheme, "refused": self.refused}, *map(asdict, self.rows)])

    @classmethod
    def read(cls, path: Path) -> "Writing":
        first, *rows = rows_of(path)
        return cls(first["scheme"], [WrittenRow(**row) for row in rows], first["refused"])


def save_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines; the file is there when it is whole."""
    scratch = path.with_name(f".{path.name}")
    scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(scratch, path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@dataclass(frozen=True, slots=True)
class Scribe:
    """Writes the rows of a scheme with one model, judged by another or the same."""

    models: Models
    writer: ModelRef
    judge: Judge
    held_out: Sequence[Problem]
    """What no row may give away."""
    seed: int

    def written(self, scheme: str, parents: Sequence[Problem], num: int) -> Writing:
        refused = Counter[str]()
        problems = self._problems(scheme, parents, num, refused)
        answers = self._answers(problems, scheme)
        rows, questions = [], []
        for problem, answer in zip(problems, answers, strict=True):
            steps = answer.splitlines(keepends=True)
            if not steps or self.models.task.answer_of(steps) is None:
                refused["no final answer"] += 1
                continue
            rows.append(WrittenRow(problem.text, answer, scheme))
            questions.append(IS_RIGHT.format(question=problem.text, answer=answer))
        kept = []
        for row, verdict in zip(rows, self.judge.verdicts(questions), strict=True):
            if verdict == "yes":
                kept.append(row)
            else:
                refused[f"answer: {REFUSED[verdict]}"] += 1
        return Writing(scheme, kept, dict(refused))

    def _problems(
        self, scheme: str, parents: Sequence[Problem], num: int, refused: Counter[str]
    ) -> list[Problem]:
        """New ones, or under orca the given ones with a system message before them."""
        task = self.models.task
        if scheme == ORCA:
            rng = random.Random(f"{scheme}\0{self.seed}")
            chosen = rng.sample(list(parents), min(num, len(parents)))
            told = [(rng.choice(SYSTEM_MESSAGES), p) for p in chosen]
            return [task.new_problem(f"{s}\n\n{p.text}", p.answer, scheme) for s, p in told]
        imagination = Imagination(task, self.held_out)
        written: list[Problem] = []
        for portion in range(-(-TRIES * num // PORTION)):
            if len(written) >= num:
                break
            seed = derive_seed(self.seed, portion, scheme)
            writer = Writer(self.models, self.writer, seed, self.judge)
            source = partial(writer.write, scheme)
            wanted = Wanted(num - len(written), seed, 0, [source], PORTION)
            found = imagination.imagine(parents, [*parents, *written], wanted)
            # What operators added is not what is wanted here.
            written += [p for p in found.problems if p.origin.startswith(f"{scheme}:")]
            refused.update({k: n for k, n in found.refused.items() if k.startswith(f"{scheme}:")})
        return written

    def _answers(self, problems: Sequence[Problem], scheme: str) -> list[str]:
        roots = [self.models.root(p) for p in problems]
        limit = self.models.limits.text_tokens
        room = self.writer.max_positions
        requests = [
            CompletionRequest(r.tokens, limit, 0.7, derive_seed(self.seed, r.problem_id, scheme))
            for r in roots
            if len(r.tokens) < room
        ]
        texts = iter(self.models.hosts.completions(self.writer, requests))
        found: list[str] = []
        for root in roots:
            text = next(texts) if len(root.tokens) < room else None
            is_whole = text is not None and not text.error and text.generated.stop == "end"
            tokens = text.generated.tokens[:-1] if text is not None and is_whole else ()
            found.append(self.models.tokenizer.decode(tokens).strip() if tokens else "")
        return found
