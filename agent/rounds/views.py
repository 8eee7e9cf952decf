"""Other views of a round's problems: greedy texts for further wordings, by one or several policies.

Texts of one policy for one wording share its systematic errors; other wordings and other policies
make other ones (Lee et al., arXiv 2502.01612). A view costs a text instead of a search.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.checkpoints.base_models import policy_at
from agent.checkpoints.model_refs import ModelRef
from agent.evaluation.answering import sample_rollouts
from agent.rounds.context import RunContext, chunks, judged
from agent.search_models import Models
from agent.tasks.wordings import wordings_of
from critics.rollout import scored
from search.interfaces import Rollout
from search.state import Problem
from store.selection import Find
from store.states import is_voter


@dataclass(frozen=True, slots=True)
class Views:
    """Texts that vote on the problems of a round, and what they cost."""

    finds: list[Find]
    num_tokens: int
    policies: tuple[str, ...]
    """Versions of those that wrote them."""


class ViewStage:
    def __init__(self, context: RunContext, refs: dict[str, ModelRef]) -> None:
        self.context = context
        self.refs = refs
        self.settings = context.config.voting

    def run(self, searched: Sequence[Problem]) -> Views:
        """One view of each of `voting.wordings` further wordings by each policy that votes; where
        a problem has no other wording, of its own by each other policy.

        Others are those that are named, and those that the last promoted round trained.
        """
        own = self.refs["policy"]
        others = [policy_at(Path(p).expanduser()).ref("policy") for p in self.settings.policies]
        others += [
            replace(ref, role="policy") for place, ref in self.refs.items() if is_voter(place)
        ]
        if not self.settings.wordings and not others:
            return Views([], 0, ())
        asked = list(self._asked(searched))
        found: list[Find] = []
        num_tokens = 0
        voters = [own, *others] if self.settings.wordings else others
        self.context.progress.stage("voting", len(asked) * len(voters), "views")
        for ref in voters:
            # The policy's own text for the problem itself is known from the search.
            given = [p for p in asked if ref is not own or p.id != p.family]
            for problem, rollout in self._written(ref, given):
                num_tokens += rollout.num_fed
                # A view stands for itself: a search of its own with a number that no search has.
                found.append(self._find(problem, rollout, -len(found) - 1))
                self.context.progress.update(len(found))
        return Views(found, num_tokens, tuple(ref.version for ref in voters))

    def _asked(self, searched: Sequence[Problem]) -> Iterator[Problem]:
        """The wordings to answer, each naming its problem as its family."""
        task, seed = self.context.task, self.context.config.seed
        known = {task.key(p.text) for p in searched}

        def is_new(problem: Problem) -> bool:
            return task.key(problem.text) not in known and not task.keeps_out(
                task.key(problem.text)
            )

        for problem in searched:
            if problem.family:
                continue
            wordings = wordings_of(task, problem, self.settings.wordings, seed + 1, is_new)
            yield from wordings or [replace(problem, family=problem.id)]

    def _written(
        self, ref: ModelRef, asked: Sequence[Problem]
    ) -> Iterator[tuple[Problem, Rollout]]:
        """The policy's greedy texts, as the outcome critic scores them."""
        refs = self.refs
        if ref.version != refs["policy"].version:
            refs = {role: r for role, r in refs.items() if role != "drafter"} | {"policy": ref}
        models = self.context.models_for(refs)
        for part in chunks(asked, self.context.config.hosting.cohort):
            groups = sample_rollouts(models, part, 1, 0.0, self.context.config.seed)
            pairs = [(p, g[0]) for p, g in zip(part, groups, strict=True) if g]
            yield from _scored(models, pairs)

    def _find(self, problem: Problem, rollout: Rollout, number: int) -> Find:
        options = rollout.state.options
        answer = rollout.answer if rollout.state.is_finished else None
        return Find(
            number,
            "",
            number,
            problem.family,
            True,
            answer,
            rollout.outcome.value if rollout.state.is_finished else None,
            rollout.is_sound,
            1.0,
            tuple(option.text for option in options),
            sum(len(option.tokens) for option in options),
            judged(self.context.task, answer, problem.answer),
            problem.answer,
            problem.text,
            problem.origin,
            problem.difficulty,
            rollout.state.prompt_tokens,
            tuple(t for option in options for t in option.tokens),
            tuple(len(option.tokens) for option in options),
        )


def _scored(
    models: Models, pairs: Sequence[tuple[Problem, Rollout]]
) -> Iterator[tuple[Problem, Rollout]]:
    finished = [r.state for _, r in pairs if r.state.is_finished]
    outcome = iter(models.outcome_scores(finished))
    for problem, rollout in pairs:
        yield problem, scored(rollout, next(outcome)) if rollout.state.is_finished else rollout
