"""Problems written by an instruction-following model: published schemes and a judge.

    lamini       a new problem in the manner of examples, on a named topic (LaMini-LM, Wu et al.,
                 arXiv 2304.14402)
    evol-deepen  one more constraint or step (Evol-Instruct, Xu et al., arXiv 2304.12244)
    evol-widen   a rarer problem of the same kind (the same)
    orca-explain a solution is explained as a system message asks, then a new problem is written
                 that is solved in the same way (after Orca, Mukherjee et al., arXiv 2306.02707)

The writer is the policy itself or a named checkpoint. What it wrote is a problem only if it has
the form of one, is not its own prompt again, and the judge finds it well posed. Nobody knows the
answers.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.checkpoints.model_refs import ModelRef
from agent.engine.requests import CompletionRequest
from agent.imagination.judge import Judge, ModelJudge
from agent.search_models import Models
from agent.tasks.rewritings import SYSTEM_MESSAGES
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
    "orca-explain": "{system}\n\nProblem: {problem}\n\nExplanation: {explanation}\n\n"
    "Write one new problem that is solved in the same way. Write the problem only.\n\n"
    "New problem:",
}
EXPLAIN = "{system}\n\nProblem: {problem}\n\nExplanation:"
JUDGE = (
    "Problem: {problem}\n\nIs this problem complete, consistent and answered by a single number? "
    "Answer yes or no.\n\nAnswer:"
)
REFUSED = {"no": "judge", "unclear": "judge unclear", "silent": "judge silent"}
"""What refuses a text, by what the judge said."""
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
    """Writes problems with one model and has them judged by another or the same."""

    def __init__(
        self, models: Models, writer: ModelRef, seed: int, judge: Judge | None = None
    ) -> None:
        self.models = models
        self.writer = writer
        self.seed = seed
        self.judge = judge or ModelJudge(models, writer)

    def write(self, scheme: str, parents: Sequence[Problem], num: int) -> list[Written]:
        """`num` texts by one of the schemes that need a model, each judged."""
        rng = random.Random(f"{scheme}\0{self.seed}")
        drawn = [rng.choice(parents) for _ in range(num)]
        told = [
            {
                "problem": parent.text,
                "examples": "\n\n".join(rng.choice(parents).text for _ in range(3)),
                "topic": rng.choice(TOPICS),
            }
            for parent in drawn
        ]
        if scheme == "orca-explain":
            for facts in told:
                facts["system"] = rng.choice(SYSTEM_MESSAGES)
            asked = [EXPLAIN.format(**facts) for facts in told]
            for facts, text in zip(told, self.texts(asked, f"{scheme} explanation"), strict=True):
                facts["explanation"] = text.strip().split("\n\n")[0]
        asked = [TEMPLATES[scheme].format(**facts) for facts in told]
        texts = self.texts(asked, scheme)
        found = [cleaned(text, p.text) for text, p in zip(texts, drawn, strict=True)]
        questions = [JUDGE.format(problem=text) for text in found if text]
        verdicts = iter(self.judge.verdicts(questions))
        return [
            Written(
                scheme,
                parent,
                text,
                REFUSED.get(next(verdicts), "") if text else "no problem",
            )
            for parent, text in zip(drawn, found, strict=True)
        ]

    def texts(self, prompts: Sequence[str], purpose: str) -> list[str]:
        """What the writer writes after each prompt; empty where it holds no more or fails."""
        tokenizer = self.models.tokenizer
        requests = [
            CompletionRequest(
                tuple(tokenizer.encode(prompt)),
                MAX_TOKENS,
                0.8,
                derive_seed(self.seed, i, purpose),
                top_p=0.95,
            )
            for i, prompt in enumerate(prompts)
        ]
        room = self.writer.max_positions
        fitting = [i for i, r in enumerate(requests) if len(r.prefix) < room]
        texts = self.models.hosts.completions(self.writer, [requests[i] for i in fitting])
        found = [""] * len(prompts)  # several long problems may be more than the writer can hold
        for i, t in zip(fitting, texts, strict=True):
            if not t.error:
                found[i] = tokenizer.decode(t.generated.tokens)
        return found


def cleaned(text: str, parent: str) -> str:
    """The first paragraph of a text as a problem; empty when it has not the form of one."""
    first = _SPACES.sub(" ", text.strip().split("\n\n")[0]).strip()
    is_problem = 20 <= len(first) <= 2000 and first.rstrip().endswith("?")
    return first if is_problem and first.lower() != _SPACES.sub(" ", parent).lower() else ""


Source = Callable[[Sequence[Problem], int], list[Written]]
"""(parents, number) -> texts: what imagination asks for problems that operators cannot make."""
