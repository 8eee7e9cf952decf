"""Problems written by an instruction-following model: published schemes and a judge.

    lamini       a new problem in the manner of examples, on a named topic (LaMini-LM, Wu et al.,
                 arXiv 2304.14402)
    evol-deepen  one more constraint or step (Evol-Instruct, Xu et al., arXiv 2304.12244)
    evol-widen   a rarer problem of the same kind (the same)

The writer is the policy itself or a named checkpoint. What it wrote is a problem only if it has
the form of one, is not its own prompt again, and the judge, the same model asked for yes or no,
finds it well posed: log p(yes) must exceed log p(no) by `MARGIN`. Nobody knows the answers.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.checkpoints.model_refs import ModelRef
from agent.engine.requests import CompletionRequest, ScoreRequest
from agent.search_models import Models
from search.randomness import derive_seed
from search.state import Problem

TOPICS = (
    "money and prices",
    "time and schedules",
    "distance and speed",
    "cooking",
    "sports scores",
    "school and classrooms",
    "farming",
    "building and area",
    "travel",
    "savings and interest",
)
TEMPLATES = {
    "lamini": "Here are three problems.\n\n{examples}\n\nWrite one new problem of the same kind "
    "about {topic}. Write the problem only.\n\nNew problem:",
    "evol-deepen": "Rewrite the problem so that it needs one more step of reasoning. Keep it short "
    "and solvable. Write the problem only.\n\nProblem: {problem}\n\nHarder problem:",
    "evol-widen": "Write one new problem that needs the same skill as this one but is set "
    "somewhere else and asked less often. Write the problem only.\n\n"
    "Problem: {problem}\n\n"
    "New problem:",
}
JUDGE = (
    "Problem: {problem}\n\nIs this problem complete, consistent and answered by a single number? "
    "Answer yes or no.\n\nAnswer:"
)
MARGIN = 0.0
"""Nats by which yes must beat no."""
MAX_TOKENS = 160
"""Of what is written, at most."""
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Written:
    """One text of the writer, and what became of it."""

    scheme: str
    parent: Problem
    text: str
    refused: str
    """Why it is no problem; empty for one that passed."""


class Writer:
    """Writes and judges problems with one model."""

    def __init__(self, models: Models, writer: ModelRef, seed: int) -> None:
        self.models = models
        self.writer = writer
        self.seed = seed

    def write(self, scheme: str, parents: Sequence[Problem], num: int) -> list[Written]:
        """`num` texts by one of the schemes that need a model, each judged."""
        rng = random.Random(f"{scheme}\0{self.seed}")
        drawn = [rng.choice(parents) for _ in range(num)]
        prompts = [self._prompt(scheme, p, parents, rng) for p in drawn]
        tokenizer = self.models.tokenizer
        requests = [
            CompletionRequest(
                tuple(tokenizer.encode(prompt)),
                MAX_TOKENS,
                0.8,
                derive_seed(self.seed, i, scheme),
                top_p=0.95,
            )
            for i, prompt in enumerate(prompts)
        ]
        room = self.writer.max_positions
        fitting = [i for i, r in enumerate(requests) if len(r.prefix) < room]
        texts = self.models.hosts.completions(self.writer, [requests[i] for i in fitting])
        found = [""] * num  # several long problems may be more than the writer can hold
        for i, t in zip(fitting, texts, strict=True):
            if not t.error:
                found[i] = cleaned(tokenizer.decode(t.generated.tokens), drawn[i].text)
        verdicts = iter(self._judged([text for text in found if text]))
        return [
            Written(
                scheme,
                parent,
                text,
                "no problem" if not text else "" if next(verdicts) else "judge",
            )
            for parent, text in zip(drawn, found, strict=True)
        ]

    @staticmethod
    def _prompt(
        scheme: str, parent: Problem, parents: Sequence[Problem], rng: random.Random
    ) -> str:
        examples = "\n\n".join(rng.choice(parents).text for _ in range(3))
        return TEMPLATES[scheme].format(
            problem=parent.text, examples=examples, topic=rng.choice(TOPICS)
        )

    def _judged(self, texts: Sequence[str]) -> list[bool]:
        """Whether the model says yes rather than no of each."""
        tokenizer = self.models.tokenizer
        requests: list[ScoreRequest] = []
        for text in texts:
            asked = tokenizer.encode(JUDGE.format(problem=text))
            for word in (" yes", " no"):
                answer = tokenizer.encode(word, is_start=False)
                requests.append(ScoreRequest((*asked, *answer), len(asked)))
        if not requests:
            return []
        scores = self.models.hosts.logprobs(self.writer, requests)
        means = [sum(row) / len(row) for row in scores]
        return [yes - no > MARGIN for yes, no in zip(means[::2], means[1::2], strict=True)]


def cleaned(text: str, parent: str) -> str:
    """The first paragraph of a text as a problem; empty when it has not the form of one."""
    first = _SPACES.sub(" ", text.strip().split("\n\n")[0]).strip()
    is_problem = 20 <= len(first) <= 2000 and first.rstrip().endswith("?")
    return first if is_problem and first.lower() != _SPACES.sub(" ", parent).lower() else ""


Source = Callable[[Sequence[Problem], int], list[Written]]
"""(parents, number) -> texts: what imagination asks for problems that operators cannot make."""
