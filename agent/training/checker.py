"""Training a checker: a policy's copy learns to work out in writing what steps claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agent.checker import asked, concluded, is_refuted
from agent.checkpoints.checkpoint import Checkpoint
from agent.engine.requests import CompletionRequest
from agent.engine.tokenizer import Tokenizer
from agent.engine.torch_engine import TorchEngine
from agent.networks.language_model import LanguageModel
from agent.training.examples import Example
from agent.training.fit import OnStep
from agent.training.job import LoopJob
from agent.training.methods.sft import train_on_texts
from critics.working import Question, result_of, worked

MEASURED_ROWS = 256
"""Questions answered together when a checker is measured."""


@dataclass(frozen=True, slots=True)
class JudgedText:
    """What a policy's text claims, and whether its answer is right."""

    questions: tuple[Question, ...] | None
    """Of all its steps; None where one is no step at all."""
    is_right: bool


def checker_examples(
    tokenizer: Tokenizer, questions: Sequence[str], max_positions: int
) -> list[Example]:
    """Each question worked out, as a training row."""
    end = tokenizer.end_ids[0]
    found: list[Example] = []
    for question, request in asked(tokenizer, questions, max_positions).items():
        text = tokenizer.encode(worked(question))
        found.append(Example((*request.prefix, *text, end), len(request.prefix)))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerJob(LoopJob):
    """Learns worked questions, and is measured on texts of problems that it learned nothing of."""

    questions: Sequence[str]
    held_out: Sequence[JudgedText]

    def train(
        self, model: LanguageModel, parent: Checkpoint, progress: OnStep
    ) -> tuple[LanguageModel, dict[str, Any]]:
        tokenizer = Tokenizer(parent.path)
        most = parent.architecture.max_positions
        examples = checker_examples(tokenizer, self.questions, most)
        told = train_on_texts(model, examples, self.settings, self.seed, progress)
        losses = {"first_loss": told.first_loss, "last_loss": told.last_loss}
        report: dict[str, Any] = losses | {"num_steps": told.num_steps}
        claimed = {q.text for text in self.held_out for q in text.questions or ()}
        found = _answers(model, tokenizer, asked(tokenizer, sorted(claimed), most))
        report |= measured_checker(found, self.held_out)
        return model, report | {"num_examples": len(examples), "num_texts": len(self.held_out)}


def measured_checker(found: Mapping[str, str], texts: Sequence[JudgedText]) -> dict[str, Any]:
    """What a checker's answers, by question in `found`, are worth.

    AUC of its word on whole texts (None where all are right or none is), the shares of right and
    wrong texts that it refutes, the shares in which a step cannot even be read as one that follows,
    and that of questions which it answers as they are worked out.
    """
    refuted = {True: 0, False: 0}
    num = {True: 0, False: 0}
    unread = {True: 0, False: 0}
    for text in texts:
        num[text.is_right] += 1
        unread[text.is_right] += text.questions is None
        refuted[text.is_right] += text.questions is None or any(
            is_refuted(q, found.get(q.text, "")) for q in text.questions
        )
    right, wrong = (_share(refuted[is_right], num[is_right]) for is_right in (True, False))
    known = [found[q] == result_of(worked(q)) for q in found]
    return {
        # The area under the two straight lines of a yes or no.
        "auc": None if right is None or wrong is None else (1 + wrong - right) / 2,
        "refuted_right": right,
        "refuted_wrong": wrong,
        "unread_right": _share(unread[True], num[True]),
        "unread_wrong": _share(unread[False], num[False]),
        "answered_right": sum(known) / len(known) if known else None,
    }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


@torch.inference_mode()
def _answers(
    model: LanguageModel, tokenizer: Tokenizer, requests: Mapping[str, CompletionRequest]
) -> dict[str, str]:
    engine = TorchEngine(model, tokenizer.steps, tokenizer.end_ids, MEASURED_ROWS)
    texts = engine.completions(list(requests.values()))
    return {q: concluded(tokenizer, t) for q, t in zip(requests, texts, strict=True)}
