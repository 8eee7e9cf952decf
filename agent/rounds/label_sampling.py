"""Labels for critics: what the policy writes on problems with known answers, and what is right.

Whole texts are sampled and judged by their answers (and the tool, where it speaks). Then the
policy's most probable options are looked at, most of which no sample would have shown: those at
some states of right texts, and at the roots where no tool proves a step. Each is judged by the tool
or, where that proves nothing, by where the policy gets from it (hard estimation, Math-Shepherd,
arXiv 2312.08935). Options and the texts they come to are what a search comes across, so they are
what critics must tell apart: of samples a tool refutes most wrong ones, and what is left to judge
is which of several sound texts answers the question.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.evaluation.answering import sample_rollouts
from agent.rounds.context import chunks, judged
from agent.search_models import Models
from agent.tasks.task import Task
from agent.training.labelling import Labelled, Siblings, label_rollouts
from search.interfaces import ExpandRequest, Rollout
from search.randomness import derive_seed
from search.state import Problem, State

HELD_OUT_SHARE = 4
"""One labelled problem in this many is kept for measuring critics, and what may be trusted."""


def is_measuring(problem_id: str) -> bool:
    """Whether a labelled problem is one from which nothing learns."""
    return int(problem_id[:4], 16) % HELD_OUT_SHARE == 0


class LabelSampling:
    def __init__(self, models: Models, task: Task, problems: Sequence[Problem], seed: int) -> None:
        self.models = models
        self.task = task
        self.problems = problems
        self.seed = seed
        self._answers = {p.id: p.answer for p in problems}

    def labelled(
        self,
        samples: int,
        states: int,
        options: int,
        cohort: int = 250,
        on_progress: Callable[[int], None] = lambda done: None,
    ) -> Labelled:
        """Rows for the critics: `samples` texts a problem, `options` at `states` of a right one."""
        rollouts: list[Rollout] = []
        siblings: list[Siblings] = []
        ends: list[Rollout] = []
        for place, part in enumerate(chunks(self.problems, cohort)):
            groups = sample_rollouts(self.models, part, samples, 1.0, self.seed)
            rollouts += [r for group in groups for r in group if r.state.options]
            judged_options, completed = self.siblings(part, groups, states, options)
            siblings += judged_options
            ends += completed
            on_progress(min(len(self.problems), (place + 1) * cohort))
        return label_rollouts(
            rollouts,
            self.is_correct,
            self.step_is_sound,
            siblings,
            is_measuring,
            self.task.same_answer,
            ends,
            self.models.doubts,
        )

    def is_correct(self, rollout: Rollout) -> bool:
        return bool(judged(self.task, rollout.answer, self._answers[rollout.state.problem_id]))

    def step_is_sound(self, rollout: Rollout, index: int) -> bool | None:
        """What is known of a step; None where nothing is."""
        state = rollout.state
        sound = self.models.check(replace(state, options=state.options[: index + 1])).is_sound
        if sound and not self._is_proving:  # true, and perhaps beside the point
            return True if self.is_correct(rollout) else None
        return sound

    @property
    def _is_proving(self) -> bool:
        """Whether what the tool finds sound is a right step."""
        return self.models.use_tool and self.task.proves == "steps"

    def siblings(
        self,
        problems: Sequence[Problem],
        groups: Sequence[Sequence[Rollout]],
        states: int,
        options: int,
    ) -> tuple[list[Siblings], list[Rollout]]:
        """Options at the root, unless the tool proves steps, and at states of one right text a
        problem, each judged; and the texts that they were judged by."""
        chosen: list[State] = []
        for problem, group in zip(problems, groups, strict=True):
            if not self._is_proving:
                chosen.append(self.models.root(problem))
            right = next((r for r in group if self.is_correct(r) and r.is_sound is not False), None)
            if right is not None:
                chosen += self._beginnings(right.state, states)
        proposals = self.models.propose([ExpandRequest(s, options, 0) for s in chosen])
        flat = [s.extended(o) for s, p in zip(chosen, proposals, strict=True) for o in p.options]
        told, ends = self._verdicts(flat)
        verdicts = iter(told)
        found = [
            Siblings(s, p.options, tuple(next(verdicts) for _ in p.options))
            for s, p in zip(chosen, proposals, strict=True)
        ]
        return found, ends

    def _beginnings(self, state: State, num: int) -> list[State]:
        """`num` different states on the way to a text, drawn by its problem."""
        first = 0 if self._is_proving else 1
        order = sorted(
            range(first, state.depth),
            key=lambda d: derive_seed(self.seed, state.problem_id, d, "state"),
        )
        return [replace(state, options=state.options[:d]) for d in sorted(order[:num])]

    def _verdicts(self, states: Sequence[State]) -> tuple[list[bool], list[Rollout]]:
        """Whether each state's last option is good, and the texts that told."""
        told = [self.models.check(s).is_sound for s in states]
        unknown = [
            i
            for i, verdict in enumerate(told)
            if verdict is None or (verdict and not self._is_proving)
        ]
        open_ones = [i for i in unknown if not states[i].is_terminal]
        completed = self.models.completed([states[i] for i in open_ones], 0.0, [0] * len(open_ones))
        ends = dict(zip(open_ones, completed, strict=True))
        texts: list[Rollout] = []
        for i in unknown:
            end = ends[i] if i in ends else self.models.checked(states[i], [])
            told[i] = end is not None and self.is_correct(end)
            if end is not None:
                texts.append(end)
        return [bool(verdict) for verdict in told], texts
