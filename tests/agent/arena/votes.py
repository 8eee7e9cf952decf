"""Votes of known strengths, and stores with answers to vote on."""

from collections.abc import Mapping, Sequence

import numpy as np

from agent.arena.votes import Vote
from search.state import Problem
from store.database import Store
from store.evaluations import Answered, Evaluation, EvaluationKey, record_evaluation
from store.states import Choice


def drawn_votes(
    strengths: Mapping[str, float], n: int, seed: int, num_judges: int = 1
) -> list[Vote]:
    """Votes on pairs drawn alike, each on a problem of its own."""
    noise = np.random.default_rng(seed)
    names = sorted(strengths)
    votes = []
    for i in range(n):
        a, b = (names[j] for j in noise.choice(len(names), 2, replace=False))
        wins = noise.random() < 1 / (1 + np.exp(strengths[b] - strengths[a]))
        choice = Choice.LEFT if wins else Choice.RIGHT
        votes.append(Vote(a, b, choice, f"p{i}", f"j{i % num_judges}"))
    return votes


def add_answers(
    store: Store,
    policy: str,
    texts: Sequence[tuple[str, bool]],
    task: str = "stories",
    key: str = "k",
) -> None:
    """What a policy wrote greedily for problems 0, 1, ..., and whether it is right."""
    problems = [Problem(f"{key}{i}", f"question {i}", "1") for i in range(len(texts))]
    items = {
        p.id: Answered("1" if right else "0", right, text)
        for p, (text, right) in zip(problems, texts, strict=True)
    }
    found = Evaluation("greedy", items, 1, 1.0, (0.0, 1.0))
    asked = EvaluationKey({"policy": policy}, {}, task)
    with store.session() as session:
        record_evaluation(session, asked, found, None, problems, task)
