"""Between the search, which knows no models, and the hosts, which know no trees."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from agent.checker import Checker
from agent.checkpoints.model_refs import CHECKER, ModelRef, ModelSet
from agent.config.settings import Config, PromptSettings
from agent.engine.requests import CompletionRequest, Generated, OptionRequest, Options, ScoreRequest
from agent.engine.tokenizer import Tokenizer
from agent.hosting.hosts import Hosts
from agent.hosting.policy_host import Speculation
from agent.lengths import Lengths, lengths
from agent.networks.device import chosen_dtype, expected_device
from agent.prompts import Prompts
from agent.tasks.task import Task
from agent.tasks.wordings import wordings_of
from critics.blend import blend
from critics.heads import TrainedCritic
from critics.registry import CRITICS
from critics.rollout import checked_rollout, cut_into_options, scored
from search.boundary import boundary_named
from search.interfaces import EvaluateRequest, Evaluation, ExpandRequest, Proposal, Rollout
from search.mcts import Search
from search.randomness import derive_seed
from search.score import Finding, Score
from search.settings import SearchSettings
from search.state import Option, Problem, State

log = logging.getLogger("ratchet")

NEUTRAL = 0.5
"""Value of a state of which no trusted critic says anything."""


WORDINGS = 16
"""Wordings of a problem where nothing checks its steps."""

PLAIN = Speculation()
PLAIN_PROMPT = PromptSettings()


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the models of a search are asked for, and how their answers count."""

    search: SearchSettings
    weights: Mapping[str, float]
    """Critic to its weight in the blend."""
    option_tokens: int | None = None
    """Longest option; None: by the worked answers."""
    text_tokens: int | None = None
    """Longest completion; None: by the worked answers."""
    prompt: PromptSettings = PLAIN_PROMPT
    dtype: str = "auto"
    """Of the weights, on `device`: results in bfloat16 are others than in float32."""
    device: str = "auto"
    use_tool: bool = True
    speculation: Speculation = PLAIN
    min_auc: float = 0.0
    """A critic whose held-out AUC is lower gives no scores: over-optimising a critic that ranks
    like chance is worse than doing without."""

    @classmethod
    def of(cls, config: Config) -> "ModelSettings":
        hosting = config.hosting
        return cls(
            config.search,
            config.critics.weights,
            hosting.option_tokens,
            hosting.text_tokens,
            config.prompt,
            hosting.dtype,
            hosting.device,
            config.critics.use_tool,
            Speculation(hosting.speculation, hosting.draft_tokens, hosting.draft_source),
            config.critics.min_auc,
        )


class Models:
    """Proposer and evaluator over hosted models, for the problems of one task."""

    def __init__(
        self,
        hosts: Hosts,
        models: ModelSet,
        task: Task,
        given: ModelSettings,
        prompts: Prompts | None = None,
    ) -> None:
        """`prompts` are those of the same policy, task and settings, where they are known."""
        self.hosts = hosts
        self.models = models
        self.given = given
        self.prompts = prompts or Prompts(task, Tokenizer(Path(models.policy.path)), given.prompt)
        self.tokenizer = self.prompts.tokenizer
        self.task = task
        self.claim_of = lru_cache(maxsize=2**16)(task.claim_of)
        self.use_tool = given.use_tool and bool(task.tool)
        self.distrusted = models.distrusted(given.min_auc)
        self.checker = self._checker()
        self.settings = settings = _resolved(given, task, self.checker is not None)
        self.weights = given.weights
        device = expected_device(given.device)
        dtype = chosen_dtype(given.dtype, device, models.policy.header.num_parameters)
        self.dtype = str(dtype).removeprefix("torch.")
        """What the policy's weights are held in."""
        self.limits = lengths_of(self.prompts, models.policy, given)
        self.speculation = given.speculation
        name = settings.boundary
        self.boundary = boundary_named(name) if name else task.boundary
        self.steps = self.tokenizer.steps(self.boundary)

    def _checker(self) -> Checker | None:
        """Who speaks of steps where no tool does; None without one that can be believed."""
        ref = self.models.refs.get(CHECKER)
        if ref is None or self.use_tool or CHECKER in self.distrusted:
            return None
        return Checker(self.hosts, ref, self.tokenizer)

    @property
    def checked_by(self) -> str:
        """What checks steps: the tool's name, `checker`, or empty text."""
        if self.use_tool:
            return self.task.tool
        return CHECKER if self.checker else ""

    def with_search(self, search: SearchSettings) -> "Models":
        """The same models under other settings of the search."""
        given = replace(self.given, search=search)
        found = Models(self.hosts, self.models, self.task, given, self.prompts)
        found.checker = self.checker  # what it has worked out need not be asked again
        return found

    def same_answer(self, left: str, right: str) -> bool:
        """Whether two answers are equal: votes count values."""
        return self.task.same_answer(left, right)

    def search(
        self,
        problem: Problem,
        seed: int,
        is_alone: bool = False,
        settings: SearchSettings | None = None,
    ) -> Search:
        """A search for the problem's answer, to be run in a frontier; `is_alone` keeps it to the
        problem's own wording, and `settings` are bounds of its own."""
        others: list[Problem] = []
        if self.settings.wordings > 1 and not is_alone:
            others = wordings_of(self.task, problem, self.settings.wordings - 1, seed)
        usual = self.limits.usual_text or self.limits.text_tokens
        # A wording that takes longer to read than a text to write buys less than more texts do.
        wordings = [
            root for other in others if len((root := self.root(other)).prompt_tokens) <= usual
        ]
        return Search(
            self.root(problem),
            settings or self.settings,
            seed,
            self.same_answer,
            wordings,
            self.claim_of,
        )

    @property
    def policy(self) -> ModelRef:
        return self.models.policy

    @property
    def versions(self) -> dict[str, str]:
        """Role to version."""
        return self.models.versions

    def root(self, problem: Problem) -> State:
        """The state to search from. The reference answer stays behind."""
        prompt = self.prompts.text(problem.text)
        tokens = tuple(self.prompts.tokens(problem.text))
        return State(problem.id, tokens, prompt, problem=problem.text)

    def check(self, state: State) -> Finding:
        """What the tool, or else the checker, says of a state's last option."""
        if not state.options or not (self.use_tool or self.checker):
            return Finding(None)
        finding = Finding(True, "no step is whole yet") if self.use_tool else Finding(None)
        for steps in self._new_steps(state):
            finding = self._checked_step(state.problem, steps)
            if finding.is_sound is not True and (self.use_tool or finding.is_sound is False):
                break
        return finding

    def _new_steps(self, state: State) -> list[Sequence[str]]:
        """The task's steps up to each that the last option ends."""
        if self.boundary.name == self.task.boundary.name:
            return [state.steps]
        # Options of another boundary may hold several of the task's steps, or a part of one.
        before = self._whole_steps(replace(state, options=state.options[:-1]))
        steps = self._whole_steps(state)
        return [steps[:end] for end in range(len(before) + 1, len(steps) + 1)]

    def _checked_step(self, problem: str, steps: Sequence[str]) -> Finding:
        if self.checker and not self.use_tool:
            return self.checker.finding(self.task.questions(problem, steps))
        return self.task.check_step(problem, steps)

    def _work_out(self, states: Iterable[State]) -> None:
        """All that the last options of these states claim, in one batch, before each is asked."""
        if self.checker is None:
            return
        asked = (
            question.text
            for state in states
            for steps in self._new_steps(state)
            for question in self.task.questions(state.problem, steps) or ()
        )
        self.checker.learn(asked)

    def _whole_steps(self, state: State) -> list[str]:
        """The text cut at the task's own boundary, less a step that is not whole yet."""
        steps = self.task.boundary.cut("".join(state.steps))
        is_whole = (
            state.is_finished or not steps or self.task.boundary.is_whole(steps[-1], steps[-1][-1])
        )
        return steps if is_whole else steps[:-1]

    def answer_of(self, state: State) -> str | None:
        """The final answer of a finished text."""
        return self.task.answer_of(self._task_steps(state))

    def propose(self, requests: Sequence[ExpandRequest]) -> list[Proposal]:
        answers = self.hosts.options(
            self.models.policy,
            [
                OptionRequest(
                    r.state.tokens,
                    r.count,
                    self.limits.option_tokens,
                    self.settings.proposal,
                    self.settings.temperature,
                    r.seed,
                    self.boundary,
                    r.known,
                )
                for r in requests
            ],
        )
        options = [
            tuple(self._option(r.state, generated) for generated in found.options)
            for r, found in zip(requests, answers, strict=True)
        ]
        self._work_out(
            r.state.extended(option)
            for r, own in zip(requests, options, strict=True)
            for option in own
        )
        return [
            self._proposal(r.state, found, own)
            for r, found, own in zip(requests, answers, options, strict=True)
        ]

    def _proposal(self, state: State, found: Options, options: tuple[Option, ...]) -> Proposal:
        if found.error:
            log.warning("no options for problem %s: %s", state.problem_id, found.error)
        unsound: list[str] = []
        for option in options:
            finding = self.check(state.extended(option))
            unsound.append(finding.reason or "unsound" if finding.is_sound is False else "")
        return Proposal(options, tuple(unsound), found.num_tokens)

    def _option(self, state: State, found: Generated) -> Option:
        text = self.tokenizer.decode_after(state.tokens, found.tokens)
        return Option(found.tokens, text, sum(found.logprobs), found.stop)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> list[Evaluation]:
        completed, spent = self._rollouts(requests)
        states = [r.state for r in requests]
        finished = [
            rollout.state
            for group in completed
            for rollout in group
            if rollout.state.is_finished and rollout.outcome.value is None
        ]
        scores = self._scores({"value": states, "process": states, "outcome": finished})
        outcome = iter(scores["outcome"])
        results: list[Evaluation] = []
        for i, group in enumerate(completed):
            rollouts = tuple(
                scored(r, next(outcome)) if r.state.is_finished and r.outcome.value is None else r
                for r in group
            )
            own = (scores["value"][i], scores["process"][i])
            # A rollout cut off by length never succeeded; it is a zero, not a missing score.
            ends = tuple(
                r.outcome if r.state.is_finished else Score("outcome", "", 0.0, "cut off by length")
                for r in rollouts
            )
            is_cut = states[i].is_terminal and not states[i].is_finished
            value = 0.0 if is_cut else blend((*own, *ends), self.weights)
            if value is None and self.distrusted:
                value = NEUTRAL  # nobody to be trusted: the priors alone lead on
            results.append(
                Evaluation(value, own, rollouts, spent[i], self._num_calls(requests[i], group))
            )
        return results

    def _num_calls(self, request: EvaluateRequest, group: Sequence[Rollout]) -> int:
        """Requests to models for one evaluation; `group` is not scored yet."""
        state = request.state
        rollouts = 0 if state.is_terminal else self.settings.num_rollouts - len(request.known)
        new = [r for r in group if r.state.is_finished and r.outcome.value is None]
        own = sum(self._asks(role, state) for role in ("value", "process"))
        return max(0, rollouts) + own + sum(self._asks("outcome", r.state) for r in new)

    def _asks(self, role: str, state: State) -> bool:
        return self._is_active(role) and self._critic(role).applies(state)

    def _is_active(self, role: str) -> bool:
        """The outcome critic judges candidates too, so it is asked whatever its weight."""
        is_wanted = self.weights.get(role, 0.0) > 0 or role == "outcome"
        return is_wanted and role not in self.distrusted

    def _scores(self, wanted: Mapping[str, Sequence[State]]) -> dict[str, list[Score]]:
        """Scores of all critics, their calls under way at the same time."""
        active = [role for role in wanted if self._is_active(role)]
        chosen = {role: [s for s in wanted[role] if self._asks(role, s)] for role in active}
        asked = {r: (self.models.refs[r], self._judged(r, chosen[r])) for r in active if chosen[r]}
        raw = {role: list[float]() for role in active} | self.hosts.critic_logits(asked)
        return {
            role: self._critic(role).score(wanted[role], raw[role], self.doubts)
            if role in active
            else [self._unasked(role)] * len(wanted[role])
            for role in wanted
        }

    def doubts(self, state: State) -> tuple[float, ...]:
        """What the task says against a whole text."""
        return self.task.doubts(state.problem, self._task_steps(state))

    def _task_steps(self, state: State) -> Sequence[str]:
        """Its steps as the task cuts them, whatever boundary options end at."""
        is_same = self.boundary.name == self.task.boundary.name
        return state.steps if is_same else self._whole_steps(state)

    def _unasked(self, role: str) -> Score:
        return Score(role, "", None, self.distrusted.get(role, "weight 0"))

    def _judged(self, role: str, states: Sequence[State]) -> list[ScoreRequest]:
        critic = self._critic(role)
        return [ScoreRequest(s.tokens, critic.num_given(s)) for s in states]

    def _critic(self, role: str) -> TrainedCritic:
        version = self.models.refs[role].version
        return CRITICS[role].reads(version, self.models.calibration(role))

    def outcome_scores(self, states: Sequence[State]) -> list[Score]:
        """The outcome critic on whole texts."""
        return self._scores({"outcome": states})["outcome"]

    def process_scores(self, states: Sequence[State]) -> list[Score]:
        """The process critic on the last step of each state."""
        return self._scores({"process": states})["process"]

    def value_scores(self, states: Sequence[State]) -> list[Score]:
        """The value critic on states."""
        return self._scores({"value": states})["value"]

    def _rollouts(
        self, requests: Sequence[EvaluateRequest]
    ) -> tuple[list[list[Rollout]], list[int]]:
        """For each request its completed rollouts and the tokens that they cost."""
        groups: list[list[Rollout]] = []
        needed: list[tuple[int, int]] = []
        for i, request in enumerate(requests):
            if request.state.is_terminal:
                groups.append([self.checked(request.state, [])])
                continue
            groups.append(list(request.known))
            missing = range(len(request.known), self.settings.num_rollouts)
            needed += [(i, derive_seed(request.seed, k)) for k in missing]
        spent = [0] * len(requests)
        completed = self.completed(
            [requests[i].state for i, _ in needed],
            self.settings.rollout_temperature,
            [seed for _, seed in needed],
        )
        for (i, _), rollout in zip(needed, completed, strict=True):
            if rollout is not None:
                spent[i] += rollout.num_fed
                groups[i].append(rollout)
        return groups, spent

    def completed(
        self, states: Sequence[State], temperature: float, seeds: Sequence[int]
    ) -> list[Rollout | None]:
        """The policy's completion of each state, not scored; None for one that failed."""
        if not states:
            return []
        requests = [
            CompletionRequest(
                s.tokens,
                self.limits.text_tokens,
                temperature,
                seed,
                group=derive_seed(0, s.problem_id),
            )
            for s, seed in zip(states, seeds, strict=True)
        ]
        texts = self.hosts.drafted_completions(
            self.models.policy, self.models.refs.get("drafter"), requests, self.speculation
        )
        ends = [
            None if t.error else self.options_of(s, t.generated)
            for s, t in zip(states, texts, strict=True)
        ]
        self._work_out(
            replace(s, options=(*s.options, *own[:place]))
            for s, own in zip(states, ends, strict=True)
            if own is not None
            for place in range(1, len(own) + 1)
        )
        return [
            None if own is None else self.checked(s, own)
            for s, own in zip(states, ends, strict=True)
        ]

    def options_of(self, state: State, text: Generated) -> list[Option]:
        """A whole text after a state, cut at the boundary."""
        return cut_into_options(
            state.tokens,
            text.tokens,
            text.logprobs,
            text.stop,
            self.steps.ends,
            self.tokenizer.decode_after,
        )

    def checked(self, state: State, new: Sequence[Option]) -> Rollout:
        """The completed state as the tool finds it."""
        return checked_rollout(state, new, self.check, self.answer_of)


def _resolved(given: ModelSettings, task: Task, has_checker: bool) -> SearchSettings:
    """Settings in which what depends on the task and its tool is chosen."""
    settings = given.search
    has_tool = given.use_tool and bool(task.tool)
    is_checked = has_tool or has_checker
    proves = task.proves if has_tool else "nothing"
    if settings.order == "auto":
        is_deep = is_checked and task.proves == "steps" and settings.unsound == "prune"
        settings = replace(settings, order="depth" if is_deep else "mass")
    if is_checked and settings.leaves == "texts":
        settings = replace(settings, num_rollouts=0)
    if has_checker and task.proves == "steps":
        # All that an unrefuted text does was worked out again. Whether that is enough to learn from
        # it is told by labelled problems, not by one search that goes on.
        settings = replace(settings, stop_unchecked_value=0.0)
    if proves == "nothing":
        settings = replace(settings, stop_value=settings.stop_unchecked_value)
    if not settings.wordings:
        has_others = any(operator.keeps_answer for operator in task.operators)
        is_worded = has_others and not is_checked and settings.leaves == "texts"
        settings = replace(settings, wordings=WORDINGS if is_worded else 1)
    return settings


def lengths_of(prompts: Prompts, policy: ModelRef, given: ModelSettings) -> Lengths:
    """How long options and texts may be: as set, else by the task's worked answers."""
    return lengths(
        prompts.task.worked_texts(),
        lambda text: len(prompts.tokenizer.fast.encode(text, add_special_tokens=False).ids),
        policy.header.architecture.max_positions,
        given.option_tokens,
        given.text_tokens,
    )
