"""How well a policy compresses held-out worked texts: what it forgets shows there.

A model's compression of held-out text tells its ability apart from how its answers are elicited
(Huang et al., arXiv 2404.09937).
"""

import math
from collections.abc import Sequence

from agent.engine.requests import ScoreRequest
from agent.search_models import Models
from agent.tasks.task import Demonstration

NUM_WORKED = 200
"""Texts whose compression is measured."""


def texts_that_fit(models: Models, seed: int) -> list[Demonstration]:
    """Held-out worked texts of the task that the policy's context holds."""
    room = models.policy.max_positions

    def size(worked: Demonstration) -> int:
        prompt = models.prompts.tokens(worked.problem.text)
        return len(prompt) + len(models.tokenizer.encode("".join(worked.steps), is_start=False))

    return [w for w in models.task.worked(NUM_WORKED, seed) if size(w) < room]


def bits_per_character(models: Models, worked: Sequence[Demonstration]) -> float | None:
    """What the policy needs to write down the solutions of worked problems, bits a character.

    None without texts.
    """
    requests, characters = [], 0
    tokenizer = models.tokenizer
    for demonstration in worked:
        prompt = models.prompts.tokens(demonstration.problem.text)
        text = "".join(demonstration.steps)
        tokens = (*prompt, *tokenizer.encode(text, is_start=False))
        requests.append(ScoreRequest(tokens, len(prompt)))
        characters += len(text)
    if not characters:
        return None
    found = models.hosts.logprobs(models.policy, requests)
    return -sum(map(sum, found)) / math.log(2) / characters
