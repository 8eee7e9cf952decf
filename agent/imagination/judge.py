"""Who says whether a written text is good enough: a model at hand, or one that is served elsewhere.

A judge is asked one question and answers yes or no. A model at hand is read without writing: yes
counts when log p(yes) exceeds log p(no) by `MARGIN`. A served one writes its answer; one that
writes something else, or does not answer, refuses that text alone.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.model_refs import ModelRef
from agent.config.endpoint import JUDGE_KEY, check_served, is_served
from agent.engine.requests import ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.search_models import Models
from search.errors import ResourceError

log = logging.getLogger("ratchet")

Verdict = Literal["yes", "no", "unclear", "silent"]
"""`unclear`: neither yes nor no was said; `silent`: there was no answer."""

MARGIN = 0.0
"""Nats by which yes must beat no."""
TIMEOUT_S = 60.0
MOST_SILENT = 3
"""Texts in a row without an answer after which a served judge is given up."""


class Judge(Protocol):
    def verdicts(self, questions: Sequence[str]) -> list[Verdict]:
        """What the judge says of each question. Raises ResourceError where it cannot be asked."""
        ...


class ModelJudge:
    """A model in this run's hosts."""

    def __init__(self, models: Models, model: ModelRef) -> None:
        self.hosts, self.model = models.hosts, model
        self.tokenizer = Tokenizer(Path(model.path))

    def verdicts(self, questions: Sequence[str]) -> list[Verdict]:
        requests: list[ScoreRequest] = []
        is_asked: list[bool] = []
        for question in questions:
            asked = self.tokenizer.encode(question)
            rows = [
                ScoreRequest((*asked, *self.tokenizer.encode(word, is_start=False)), len(asked))
                for word in (" yes", " no")
            ]
            is_asked.append(max(len(r.tokens) for r in rows) <= self.model.max_positions)
            requests += rows if is_asked[-1] else []
        scores = self.hosts.logprobs(self.model, requests) if requests else []
        means = iter([sum(row) / len(row) for row in scores])
        found: list[Verdict] = []
        for one in is_asked:
            gain = next(means) - next(means) if one else None
            found.append("silent" if gain is None else "yes" if gain > MARGIN else "no")
        return found


class ServedJudge:
    """A model behind an OpenAI-compatible endpoint."""

    def __init__(self, url: str, model: str = "") -> None:
        """`url` ends before /chat/completions; without a model its first one is asked. The key is
        taken from the environment, `RATCHET_JUDGE_KEY`."""
        check_served(url)
        import openai

        self.url, self.model = url, model
        self._why, self._num_silent = "", 0
        key = os.environ.get(JUDGE_KEY) or "none"
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=TIMEOUT_S, max_retries=2)

    def verdicts(self, questions: Sequence[str]) -> list[Verdict]:
        found: list[Verdict] = []
        for question in questions:
            found.append(self._asked(question))
            self._num_silent = self._num_silent + 1 if found[-1] == "silent" else 0
            if self._num_silent >= MOST_SILENT:
                raise self._unreachable(self._why)
        return found

    def _asked(self, question: str) -> Verdict:
        import openai

        try:
            if not self.model:
                self.model = str(next(iter(self._client.models.list())).id)
            reply = self._client.chat.completions.create(
                model=self.model,
                messages=[{"role": "user", "content": question}],
                temperature=0.0,
                max_tokens=8,
            )
            told: Any = reply.choices[0].message.content
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise ResourceError(
                f"the judge at {self.url} refuses its key: HTTP {error.status_code}",
                f"set the environment variable {JUDGE_KEY}",
            ) from error
        except openai.NotFoundError as error:
            if not self.model:
                raise ResourceError(
                    f"there is no OpenAI-compatible endpoint at {self.url}",
                    "end imagination.judge with the path of its version, such as /v1",
                ) from error
            raise ResourceError(
                f"the judge at {self.url} does not know model {self.model!r}",
                "set imagination.judge_model to one of its models, or leave it out",
            ) from error
        except (openai.OpenAIError, StopIteration) as error:
            self._why = str(error) or type(error).__name__
            return "silent"
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            self._why = f"it says what no such endpoint says ({type(error).__name__})"
            return "silent"
        return said(told) if isinstance(told, str) else "unclear"

    def _unreachable(self, why: str) -> ResourceError:
        return ResourceError(
            f"the judge at {self.url} does not answer: {why:.200}",
            "start it, correct imagination.judge, or leave it out: then the writer judges",
        )


def said(reply: str) -> Verdict:
    """What a written answer comes to: its first word decides."""
    word = "".join(c if c.isalpha() else " " for c in reply.lower()).split()[:1]
    return "yes" if word == ["yes"] else "no" if word == ["no"] else "unclear"


def opened_judge(judge: str, model: str, models: Models, writer: ModelRef) -> Judge:
    """The judge that the settings name: an address, a directory, or the writer itself.

    Raises UsageError, CheckpointError.
    """
    if not judge:
        return ModelJudge(models, writer)
    if is_served(judge):
        return ServedJudge(judge, model)
    return ModelJudge(models, policy_at(Path(judge).expanduser()).ref("policy"))
