"""How good a policy is on held-out problems: greedy, majority vote, best of n, several wordings of
a problem, and search."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent.evaluation.intervals import wilson
from agent.search_models import Models
from agent.tasks.wordings import wordings_of
from critics.rollout import scored
from search import frontier
from search.candidates import grouped
from search.interfaces import Rollout
from search.randomness import derive_seed
from search.state import Problem
from store.evaluations import Answered, Evaluation

Mode = Literal["greedy", "majority", "best-of-n", "wordings", "search"]
MODES: tuple[Mode, ...] = ("greedy", "majority", "best-of-n", "wordings", "search")


@dataclass(frozen=True, slots=True)
class Plan:
    """How to answer: the mode and its budget."""

    mode: Mode
    samples: int = 8
    """Texts a problem, for majority, best-of-n and wordings."""
    temperature: float = 0.8
    seed: int = 0

    def settings(self, models: Models) -> dict[str, Any]:
        """Everything, besides the weights, that a result of this plan depends on."""
        limits: dict[str, Any] = {"text_tokens": models.limits.text_tokens}
        if models.prompts.digest:
            limits["prompt"] = models.prompts.digest
        if models.dtype != "float32":
            limits["dtype"] = models.dtype
        if models.task.answer_rule != "auto":
            limits["answers"] = models.task.answer_rule
        if self.mode == "greedy":
            return {"mode": self.mode} | limits
        if self.mode == "search":
            return limits | {
                "mode": self.mode,
                "seed": self.seed,
                "search": models.settings.as_dict(),
                "use_tool": models.use_tool,
                "weights": dict(models.weights),
                "distrusted": sorted(models.distrusted),
                "option_tokens": models.limits.option_tokens,
            }
        return limits | {
            "mode": self.mode,
            "samples": self.samples,
            "seed": self.seed,
            "temperature": self.temperature,
        }


def benchmark_digest(problems: Sequence[Problem]) -> str:
    raw = json.dumps([[p.id, p.answer] for p in problems])
    return hashlib.sha256(raw.encode()).hexdigest()[:16]


def evaluate(
    models: Models,
    problems: Sequence[Problem],
    plan: Plan,
    cohort: int = 100,
    on_progress: Callable[[int, float], None] = lambda done, solved: None,
) -> Evaluation:
    """Answer the problems and compare with their references, which only this function reads."""
    started = time.monotonic()
    answers: dict[str, Answered] = {}
    tokens = cut = 0
    for start in range(0, len(problems), cohort):
        part = problems[start : start + cohort]
        found = _ANSWERING.get(plan.mode, _sampled)(models, part, plan)
        for problem, told in zip(part, found, strict=True):
            is_correct = models.task.is_correct(told.answer, problem.answer or "")
            answers[problem.id] = Answered(told.answer, is_correct, told.text)
            tokens += told.tokens
            cut += told.is_cut
        on_progress(len(answers), sum(a.is_correct for a in answers.values()) / len(answers))
    num_correct = sum(a.is_correct for a in answers.values())
    interval = wilson(num_correct, len(answers))
    seconds = time.monotonic() - started
    num_cut = cut if plan.mode == "greedy" else None
    return Evaluation(plan.mode, answers, tokens, seconds, interval, num_cut=num_cut)


@dataclass(frozen=True, slots=True)
class _Told:
    """What one problem came to."""

    answer: str | None
    tokens: int
    text: str | None = None
    """The text behind the answer, where it is one."""
    is_cut: bool = False
    """Whether that text was cut off by length."""


def _text(rollout: Rollout) -> str:
    return "".join(option.text for option in rollout.state.options)


def _searched(models: Models, problems: Sequence[Problem], plan: Plan) -> list[_Told]:
    searches = [models.search(p, derive_seed(plan.seed, p.id, "evaluate")) for p in problems]
    frontier.run(searches, models, models, clock=time.monotonic)
    found: list[_Told] = []
    for search in searches:
        result = search.result()
        chosen = result.chosen.rollout if result.chosen else None
        text = _text(chosen) if chosen else None
        found.append(_Told(chosen.answer if chosen else None, result.budget.tokens, text))
    return found


def sample_rollouts(
    models: Models, problems: Sequence[Problem], samples: int, temperature: float, seed: int
) -> list[list[Rollout]]:
    """Whole texts of the policy, not checked and not scored; those that failed are left out."""
    roots = [models.root(p) for p in problems]
    found = models.completed(
        [root for root in roots for _ in range(samples)],
        temperature,
        [derive_seed(seed, root.problem_id, k, "sample") for root in roots for k in range(samples)],
    )
    return [
        [r for r in found[i * samples : (i + 1) * samples] if r is not None]
        for i in range(len(roots))
    ]


def _sampled(models: Models, problems: Sequence[Problem], plan: Plan) -> list[_Told]:
    is_greedy = plan.mode == "greedy"
    groups = sample_rollouts(
        models,
        problems,
        1 if is_greedy else plan.samples,
        0.0 if is_greedy else plan.temperature,
        plan.seed,
    )
    if plan.mode == "best-of-n":
        groups = _with_outcomes(models, groups)
    found: list[_Told] = []
    for group in groups:
        spent = sum(r.num_fed for r in group)
        answered = [r for r in group if r.answer is not None]
        if plan.mode == "majority":
            best = voted([r.answer for r in answered], [1.0] * len(answered), models.same_answer)
        elif plan.mode == "best-of-n":
            # An unscored text is no worst one: it is out of the contest.
            contest = [(r.outcome.value, r.answer) for r in answered if r.outcome.value is not None]
            best = max(contest, key=lambda c: c[0], default=(0.0, None))[1]
        else:
            best = answered[0].answer if answered else None
        shown = next((r for r in group if r.answer == best), None)
        is_cut = bool(group) and not group[0].state.is_finished
        found.append(_Told(best, spent, _text(shown) if shown else None, is_cut))
    return found


def _with_outcomes(models: Models, groups: Sequence[Sequence[Rollout]]) -> list[list[Rollout]]:
    flat = [r for group in groups for r in group]
    scores = iter(models.outcome_scores([r.state for r in flat]))
    return [[scored(r, next(scores)) for r in group] for group in groups]


def _worded(models: Models, problems: Sequence[Problem], plan: Plan) -> list[_Told]:
    """Greedy answers to several wordings of each problem, weighed by their outcome scores."""
    families = [[p, *wordings_of(models.task, p, plan.samples - 1, plan.seed)] for p in problems]
    flat = [p for family in families for p in family]
    texts = sample_rollouts(models, flat, 1, 0.0, plan.seed)
    scored_texts = iter(_with_outcomes(models, texts))
    found: list[_Told] = []
    for family in families:
        answers: list[str | None] = []
        scores: list[float] = []
        spent = 0
        for group in (next(scored_texts) for _ in family):
            for r in group:
                spent += r.num_fed
                if r.answer is not None:
                    answers.append(r.answer)
                    scores.append(0.5 if r.outcome.value is None else r.outcome.value)
        found.append(_Told(voted(answers, scores, models.same_answer), spent))
    return found


def voted(
    answers: Sequence[str | None], weights: Sequence[float], same: Callable[[str, str], bool]
) -> str | None:
    """The answer with most weight behind it, equal ones counted together; of equal weight the one
    that came first. None without an answer, which never wins against one."""
    votes: dict[int, float] = {}
    for group, answer, weight in zip(grouped(answers, same), answers, weights, strict=True):
        if answer is not None:
            votes[group] = votes.get(group, 0.0) + weight
    return answers[max(votes, key=lambda g: votes[g])] if votes else None


_ANSWERING = {"search": _searched, "wordings": _worded}
