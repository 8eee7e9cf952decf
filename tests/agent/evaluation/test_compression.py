"""Bits a character of held-out worked texts."""

import math

import pytest

from agent.engine.requests import ScoreRequest
from agent.evaluation.compression import bits_per_character
from agent.tasks.task import is_held_out
from tests.agent.test_search_models import models_with


def test_bits_per_character_are_those_of_the_policys_own_distribution() -> None:
    models = models_with()
    worked = models.task.worked(20, 0)
    assert all(is_held_out(models.task.key(w.problem.text)) for w in worked)
    requests, characters = [], 0
    for w in worked:
        prompt = models.tokenizer.encode(models.task.prompt(w.problem.text))
        text = "".join(w.steps)
        tokens = (*prompt, *models.tokenizer.encode(text, is_start=False))
        requests.append(ScoreRequest(tokens, len(prompt)))
        characters += len(text)
    found = models.hosts.logprobs(models.policy, requests)
    nats = -sum(sum(row) for row in found)
    bits = bits_per_character(models, worked)
    assert bits == pytest.approx(nats / math.log(2) / characters)
    assert 0 < bits < 1
    assert bits_per_character(models, []) is None
