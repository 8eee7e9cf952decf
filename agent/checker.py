"""A model that works out again, in writing, what steps claim where no tool can check them.

It is asked without the step's own result (`Task.questions`), so it does not repeat how that was
found, and it writes before it answers (Zhang et al., arXiv 2408.15240). It refutes and never
proves: of what it agrees with critics go on to judge.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence

from agent.checkpoints.model_refs import ModelRef
from agent.engine.requests import Completion, CompletionRequest
from agent.engine.tokenizer import Tokenizer
from agent.hosting.hosts import Hosts
from critics.working import Question, most_characters, result_of
from search.errors import TaskError
from search.score import Finding

MOST_KNOWN = 100_000
"""Answers kept; a service that runs for months begins anew there."""
UNREADABLE = Finding(False, "no step from what stands before it")


class Checker:
    """Each question is worked out once, greedily. One object serves several threads."""

    def __init__(self, hosts: Hosts, ref: ModelRef, tokenizer: Tokenizer) -> None:
        self.hosts = hosts
        self.ref = ref
        self.tokenizer = tokenizer
        self.num_tokens = 0
        """Read by the checker so far."""
        self._found: dict[str, str] = {}
        self._lock = threading.Lock()

    def learn(self, questions: Iterable[str]) -> list[str]:
        """What each comes to, those that are new worked out in one batch; empty for a question that
        cannot be asked, or whose text never ended."""
        wanted = list(questions)
        with self._lock:
            if len(self._found) + len(wanted) > MOST_KNOWN:
                self._found.clear()
            new = [q for q in dict.fromkeys(wanted) if q not in self._found]
            answers = asked(self.tokenizer, new, self.ref.max_positions)
            self._found |= dict.fromkeys(new, "")
            texts = self.hosts.completions(self.ref, list(answers.values())) if answers else []
            for question, text in zip(answers, texts, strict=True):
                self.num_tokens += len(answers[question].prefix) + len(text.generated.tokens)
                self._found[question] = concluded(self.tokenizer, text)
            return [self._found[question] for question in wanted]

    def finding(self, questions: Sequence[Question] | None) -> Finding:
        """Whether what was worked out is what the step claims; None of is_sound where nothing
        speaks against it."""
        if questions is None:
            return UNREADABLE
        answers = self.learn(q.text for q in questions)
        for question, answer in zip(questions, answers, strict=True):
            if is_refuted(question, answer):
                return Finding(False, f"worked out again: {question.text} is {answer}")
        return Finding(None, "worked out again" if questions else "nothing to work out")


def is_refuted(question: Question, answer: str) -> bool:
    """Whether the answer speaks against the claim; an empty one says nothing."""
    return answer not in ("", question.claimed)


def asked(
    tokenizer: Tokenizer, questions: Iterable[str], max_positions: int
) -> Mapping[str, CompletionRequest]:
    """Requests by question; those that the vocabulary cannot spell, or whose answer might not fit
    the context, are left out."""
    found: dict[str, CompletionRequest] = {}
    for question in questions:
        try:
            prefix = tuple(tokenizer.encode(question + "\n"))
        except TaskError:
            continue
        if len(prefix) + most_characters(question) <= max_positions:
            found[question] = CompletionRequest(prefix, most_characters(question), 0.0)
    return found


def concluded(tokenizer: Tokenizer, text: Completion) -> str:
    """What a checker's text comes to; empty for one that failed or never ended."""
    if text.error or text.generated.stop != "end":
        return ""
    ends = set(tokenizer.end_ids)
    return result_of(tokenizer.decode([t for t in text.generated.tokens if t not in ends]))
