"""Labels for the critics from the policy's own texts on problems with known answers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import eq

from agent.training.examples import (
    CriticExample,
    JudgedExample,
    LabelledExample,
    PairExample,
)
from search.candidates import SameAnswer, grouped
from search.interfaces import Rollout
from search.state import Option, State
from store.verdicts import StoredVerdict

Doubts = Callable[[State], tuple[float, ...]]
"""What the task says against a whole text."""
ONE_KIND = 3
"""Texts of stored trees of one verdict, for each of the other."""


def no_doubts(state: State) -> tuple[float, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one critic, those of held-out problems apart."""

    train: list[CriticExample] = field(default_factory=list)
    held_out: list[CriticExample] = field(default_factory=list)

    @property
    def classes(self) -> set[bool]:
        """Which verdicts the training rows hold."""
        return {
            good
            for e in self.train
            for good in (
                (e.is_good,) if isinstance(e, JudgedExample) else [x > 0.5 for x in e.labels]
            )
        }


@dataclass(frozen=True, slots=True)
class Labelled:
    value: Split
    process: Split
    outcome: Split
    num_texts: int
    right_texts: list[State] = field(default_factory=list)
    """Different right texts of problems that the policy does not always solve."""
    suspects: list[str] = field(default_factory=list)
    """Ids of labelled problems whose reference answer the policy and the tool contradict."""

    def of(self, role: str) -> Split:
        found: Split = getattr(self, role)
        return found


@dataclass(frozen=True, slots=True)
class Siblings:
    """Different options of one state, each found good or not."""

    state: State
    options: tuple[Option, ...]
    is_good: tuple[bool, ...]


def label_rollouts(
    rollouts: Sequence[Rollout],
    is_correct: Callable[[Rollout], bool],
    step_is_sound: Callable[[Rollout, int], bool | None],
    siblings: Sequence[Siblings],
    is_held_out: Callable[[str], bool],
    same: SameAnswer = eq,
    ends: Sequence[Rollout] = (),
    doubts: Doubts = no_doubts,
) -> Labelled:
    """Value: does the text end right, at every state. Process: is the step sound, by the tool's
    word and among siblings. Outcome: is the finished text right, and sound where the tool speaks.

    `ends` are texts that siblings were judged by: the outcome critic learns from those that the
    tool does not refute, each once. `doubts` is what the task says against a whole text.
    """
    value, process, outcome = Split(), Split(), Split()

    def put(split: Split, problem_id: str, row: CriticExample) -> None:
        (split.held_out if is_held_out(problem_id) else split.train).append(row)

    def whole(state: State, is_good: bool) -> JudgedExample:
        num_given = len(state.prompt_tokens)
        return JudgedExample(state.tokens, num_given, is_good, doubts=doubts(state))

    for rollout in rollouts:
        state = rollout.state
        good = is_correct(rollout)
        label = 1.0 if good else 0.0
        end = len(state.prompt_tokens) - 1
        places = [end]
        for option in state.options:
            end += len(option.tokens)
            places.append(end)
        is_sound = True
        for i in range(state.depth):
            sound = step_is_sound(rollout, i)
            if sound is not None and is_sound:
                put(
                    process,
                    state.problem_id,
                    JudgedExample(state.tokens[: places[i + 1] + 1], places[i] + 1, sound),
                )
            is_sound = is_sound and sound is not False
        tokens = state.tokens
        # A text that ended by itself has nothing left to be uncertain of: its last state counts.
        put(value, state.problem_id, LabelledExample(tokens, tuple(places), (label,) * len(places)))
        if state.is_finished:
            put(outcome, state.problem_id, whole(state, good and is_sound))
    known = {r.state.tokens for r in rollouts}
    for rollout in ends:
        state = rollout.state
        if state.is_finished and rollout.is_sound is not False and state.tokens not in known:
            known.add(state.tokens)
            put(outcome, state.problem_id, whole(state, is_correct(rollout)))
    for group in siblings:
        for row in sibling_examples(group):
            put(process, group.state.problem_id, row)
    # What measures the critics later must not be learned by heart by the policy.
    samples, others = (
        [r for r in texts if not is_held_out(r.state.problem_id)] for texts in (rollouts, ends)
    )
    right = worth_repeating(samples, is_correct, others, doubts)
    return Labelled(
        value,
        process,
        outcome,
        len(value.train) + len(value.held_out),
        right,
        suspicious(rollouts, is_correct, same=same),
    )


def suspicious(
    rollouts: Sequence[Rollout],
    is_correct: Callable[[Rollout], bool],
    share: float = 0.75,
    same: SameAnswer = eq,
) -> list[str]:
    """Problems of which no text is right, while at least `share` of them, three or more, end with
    one and the same other answer and the tool found none of those unsound."""
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in rollouts:
        groups[rollout.state.problem_id].append(rollout)
    found = []
    for problem_id, group in groups.items():
        if any(is_correct(r) for r in group):
            continue
        votes = Counter(
            grouped([r.answer for r in group if r.answer and r.is_sound is not False], same)
        )
        if votes and votes.most_common(1)[0][1] >= max(3, share * len(group)):
            found.append(problem_id)
    return found


def worth_repeating(
    samples: Sequence[Rollout],
    is_correct: Callable[[Rollout], bool],
    others: Sequence[Rollout] = (),
    doubts: Doubts = no_doubts,
    most: int = 2,
) -> list[State]:
    """At most `most` different right texts of each problem that some sample got wrong, those first
    that the task holds least against: they are less often right by luck.

    Rejection sampling on the labelled problems (STaR, arXiv 2203.14465): what the policy can do
    and does not always do. `others`, which no sampling wrote, reach answers that no sample has.
    """
    is_right = {id(r): r.is_sound is not False and is_correct(r) for r in (*samples, *others)}
    failed = {r.state.problem_id for r in samples if not is_right[id(r)]}
    groups: dict[str, list[Rollout]] = defaultdict(list)
    for rollout in (*samples, *others):
        groups[rollout.state.problem_id].append(rollout)
    found: list[State] = []
    for problem_id, group in groups.items():
        if problem_id in failed:
            finished = [r.state for r in group if is_right[id(r)] and r.state.is_finished]
            finished.sort(key=lambda state: sum(doubts(state)))
            different = {state.tokens: state for state in reversed(finished)}
            found += list(different.values())[::-1][:most]
    return found


def tree_rows(
    verdicts: Iterable[StoredVerdict], pairs: Iterable[PairExample]
) -> dict[str, list[CriticExample]]:
    """Rows from stored trees, by critic. They say what a round trusted, not what is true.

    Value: the visit-weighted Q of a step where the tree has one, else the text's return. Process:
    a kept step against its worse sibling, blamed where they part. Outcome: kept or contradicted.
    """
    found: dict[str, list[CriticExample]] = {"value": [], "process": [], "outcome": []}
    for v in verdicts:
        tokens = v.prompt_tokens + v.tokens
        num_prompt = len(v.prompt_tokens)
        ends = [num_prompt - 1 + sum(v.step_tokens[: i + 1]) for i in range(len(v.step_tokens))]
        labels = [float(v.is_good) if q is None else min(1.0, max(0.0, q)) for q in v.step_q]
        if ends:
            found["value"].append(LabelledExample(tokens, tuple(ends), tuple(labels)))
        found["outcome"].append(JudgedExample(tokens, num_prompt, v.is_good))
    for pair in pairs:
        given = len(pair.given)
        place = first_difference(pair.rejected, [pair.chosen])
        found["process"] += [
            JudgedExample(pair.given + pair.chosen, given, True),
            JudgedExample(
                pair.given + pair.rejected, given, False, None if place is None else given + place
            ),
        ]
    return found


def contrasted(verdicts: Iterable[StoredVerdict]) -> list[StoredVerdict]:
    """The texts, at most `ONE_KIND` of one verdict for each of the other, the first ones.

    Where searches end with the first text that a tool proves, trees hold right texts alone, and
    critics would learn that a text of a tree is right.
    """
    found = list(verdicts)
    num_good = sum(v.is_good for v in found)
    left = {True: ONE_KIND * (len(found) - num_good), False: ONE_KIND * num_good}
    kept: list[StoredVerdict] = []
    for verdict in found:
        if left[verdict.is_good]:
            left[verdict.is_good] -= 1
            kept.append(verdict)
    return kept


def sibling_examples(group: Siblings) -> list[JudgedExample]:
    """A row for each option; a wrong one goes wrong where it leaves all its good siblings."""
    start = len(group.state.tokens)
    good = [o.tokens for o, is_good in zip(group.options, group.is_good, strict=True) if is_good]
    rows = []
    for option, is_good in zip(group.options, group.is_good, strict=True):
        place = None if is_good or not good else first_difference(option.tokens, good)
        rows.append(
            JudgedExample(
                group.state.tokens + option.tokens,
                start,
                is_good,
                None if place is None else start + place,
            )
        )
    return rows


def first_difference(tokens: Sequence[int], others: Sequence[Sequence[int]]) -> int | None:
    """First place at which `tokens` begins like none of `others`; None when it is a beginning."""
    left = list(others)
    for place, token in enumerate(tokens):
        left = [o for o in left if place < len(o) and o[place] == token]
        if not left:
            return place
    return None
