"""Which of a round's finished texts are trusted enough to learn from, and why."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import eq
from typing import TypedDict

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.orm import Session

from search.candidates import SameAnswer, grouped
from store.recording import unpack_tokens
from store.schema import ProblemRow, Round, SearchRow, TrajectoryRow

LEAST = 1e-3
"""Distance of a probability from 0 and 1, at least, before its log-odds are taken."""
SOUND_ENOUGH = 0.5
"""Outcome score from which a text that no tool judged counts as solved, for solve rates."""


@dataclass(frozen=True, slots=True)
class Find:
    """A finished text that a search came across."""

    id: int
    sha: str
    search_id: int
    family: str
    """Shared by the searches of all wordings of one problem."""
    is_chosen: bool
    """Whether it is the search's answer."""
    answer: str | None
    outcome: float | None
    is_sound: bool | None
    confidence: float
    """Share of the candidates' weight behind the search's answer."""
    steps: tuple[str, ...]
    num_tokens: int
    is_correct: bool | None = None
    """None where nobody knows the answer."""
    reference: str | None = None
    problem: str = ""
    """Its text."""
    origin: str = ""
    """Where its problem came from."""
    difficulty: float | None = None
    """The task's own measure of its problem."""
    prompt_tokens: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    step_tokens: tuple[int, ...] = ()
    """Tokens of each step."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for the answer that the searches of one problem support best."""

    answer: str | None
    is_right: bool | None
    """Against the reference; None where nobody knows it."""
    searches: int
    """One for each wording of the problem."""
    votes: float
    """Share of them that chose the answer."""
    support: float
    """Sum of the best outcome scores behind it, one of each search; a text that the tool found
    sound counts 1."""
    outcome: float
    """The best of them."""
    text: int
    """The text with that score."""
    confidence: float
    """Mean share of the candidates' weight that the searches which chose it put behind it."""

    def numbers(
        self, least_step: float = 1.0, doubts: tuple[float, ...] = (), held: float = 0.0
    ) -> tuple[float, ...]:
        """For a regression: shares as they are, probabilities as log-odds.

        `least_step` is the least process score of a step of the text; with the outcome it makes
        the pessimist's number: a text is as good as its worst step (Cheng et al., arXiv
        2504.15275). `doubts` are the task's own, and `held` is what they have moved the log-odds of
        the outcome by: it is taken out again, for the rule weighs them itself.
        """
        own = _log_odds(self.outcome) - held
        return (
            self.votes,
            self.support / self.searches,
            own,
            _log_odds(self.confidence),
            min(own, _log_odds(least_step)),
            *doubts,
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """What a rule asks of the task and of the user."""

    same: SameAnswer = eq
    """Whether two answers are equal."""
    reward: Callable[[Find], float] | None = None
    """The user's own rating of a text; None where none is asked."""
    trusts: Callable[[Evidence], bool] | None = None
    """Whether an answer that nothing checks may be learned from; None: any may."""
    is_labelled: Callable[[Find], bool] = lambda find: False
    """Whether the answer is known and may be used: it decides alone then."""
    is_proven: Callable[[Find], bool] = lambda find: False
    """Whether the tool proves the text right."""


PLAIN = Judge()


class Grounds(TypedDict):
    """What a text was chosen by."""

    rank: int
    """Place among the texts that were taken from its search, from 1."""
    outcome: float | None
    """Its outcome score; null without one."""
    is_sound: bool | None
    """Whether the tool found it sound; null where it had nothing to say."""
    confidence: float
    """Share of the candidates' weight behind its search's answer, from 0 to 1."""
    support: float
    """Sum of the best outcome scores behind its answer, one of each wording that came to it; a
    text that the tool found sound counts 1."""
    wordings: int
    """Searches of its problem in the round, one for each wording, whatever they answered."""


@dataclass(frozen=True, slots=True)
class Selected:
    find: Find
    scores: Grounds


@dataclass(frozen=True, slots=True)
class Selection:
    kept: list[Selected]
    refused: Counter[str]
    """Searches that gave nothing, by reason; each counts once."""


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """Which trajectories a round may learn from."""

    min_precision: float = 0.9
    """Share of right answers that must be shown on labelled problems; 0: none need be."""
    certainty: float = 0.9
    """Probability with which it must hold."""
    probes: int = 150
    """Labelled problems searched to show it."""
    min_outcome: float = 0.0
    """Gamma: least outcome score; a text without a score is taken only if a tool found it sound."""
    must_be_sound: bool = True
    """Drop what the task's tool found unsound."""
    must_answer: bool = True
    """Drop texts that end without an answer."""
    min_confidence: float = 0.0
    """Least share of the candidates' weight behind the answer."""
    min_support: float = 0.0
    """Least sum of outcome scores behind the answer, over the wordings of one problem; a text
    that the tool found sound counts 1."""
    best: int = 1
    """Trajectories of one search, at most: its answer, then others with the same answer."""
    min_distance: int = 1
    """Steps in which two trajectories of one search differ, at least."""
    max_tokens: int = 0
    """Longest trajectory; 0: any."""
    must_be_correct: bool = False
    """Drop what is not right; a problem whose answer nobody knows gives nothing."""
    reward: str = ""
    """FILE.py:FUNCTION that rates a text; empty: none is asked."""
    min_reward: float = 1.0
    """Least reward, where one is asked."""

    def select(
        self, finds: Sequence[Find], judge: Judge = PLAIN, views: Sequence[Find] = ()
    ) -> Selection:
        """The trusted ones, search by search in their order, the search's own answer first.

        `views` speak for answers and are not chosen.

        Where a problem was searched in several wordings, the answer that they support best counts
        in each of them, whichever the search itself chose.
        """
        supported = evidence_of([*finds, *views], judge.same)
        groups: dict[int, list[Find]] = defaultdict(list)
        for find in finds:
            groups[find.search_id].append(find)
        kept: list[Selected] = []
        refused: Counter[str] = Counter()
        for group in groups.values():
            evidence = supported[group[0].family]
            agreeing = self._agreeing(group, evidence, judge)
            support = evidence.support
            if evidence.searches == 1:
                support = max((_vote(f) for f in agreeing), default=0.0)
            if why := self._distrust(group, agreeing, evidence, support, judge):
                refused[why] += 1
                continue
            agreeing.sort(
                key=lambda f: (not f.is_chosen, f.is_sound is not True, -(f.outcome or 0.0), f.id)
            )
            taken: list[Find] = []
            first_doubt = ""
            for find in agreeing:
                is_full = len(taken) == self.best
                doubt = "" if is_full else self.doubt(find, judge, self._is_vouched(find, judge))
                if doubt or is_full:
                    first_doubt = first_doubt or doubt
                    continue
                if all(distance(find.steps, t.steps) >= self.min_distance for t in taken):
                    taken.append(find)
                    grounds = _grounds(find, len(taken), support, evidence.searches)
                    kept.append(Selected(find, grounds))
            if not taken:
                refused[first_doubt or "another answer"] += 1
        return Selection(kept, refused)

    def _agreeing(self, group: Sequence[Find], evidence: Evidence, judge: Judge) -> list[Find]:
        """The texts of a search that end with the answer that counts: the right one where it is
        known; that of a problem in one wording only is the search's own."""
        if self.min_precision and judge.is_labelled(group[0]):
            return [f for f in group if f.is_correct]
        if evidence.searches > 1:
            return [f for f in group if _is_same(f.answer, evidence.answer, judge)]
        answer = next((f.answer for f in group if f.is_chosen), None)
        found = [f for f in group if _is_same(f.answer, answer, judge)]
        return [f for f in found if f.is_chosen or f.answer is not None]

    def _distrust(
        self,
        group: Sequence[Find],
        agreeing: Sequence[Find],
        evidence: Evidence,
        support: float,
        judge: Judge,
    ) -> str:
        """Why an answer is not trusted, whichever text ends with it; empty for one that is."""
        if self.min_precision and judge.is_labelled(group[0]):
            return "" if agreeing else "wrong answer"
        if support < self.min_support:
            return "support"
        is_proven = any(judge.is_proven(f) for f in agreeing)
        if judge.trusts is not None and not is_proven and not judge.trusts(evidence):
            return "not trusted"
        return ""

    def _is_vouched(self, find: Find, judge: Judge) -> bool:
        """Whether the truth or a rule speaks for the answer, so that no critic need speak for the
        text."""
        is_known = bool(self.min_precision) and judge.is_labelled(find)
        return self.must_be_correct or is_known or judge.trusts is not None

    def doubt(self, find: Find, judge: Judge = PLAIN, is_vouched: bool = False) -> str:
        """Why a text is not trusted by its own figures; empty for one that is."""
        if find.answer is None and self.must_answer:
            return "no answer"
        if find.is_sound is False and self.must_be_sound:
            return "unsound step"
        if self.must_be_correct and not find.is_correct:
            return "answer unknown" if find.is_correct is None else "wrong answer"
        # Without a trusted outcome critic the tool's word is enough, and so is the right answer.
        if find.outcome is None and not find.is_sound and not is_vouched:
            return "nobody judged it"
        if find.outcome is not None and find.outcome < self.min_outcome:
            return "outcome score"
        if find.confidence < self.min_confidence:
            return "confidence"
        if self.max_tokens and find.num_tokens > self.max_tokens:
            return "too long"
        if judge.reward is not None and judge.reward(find) < self.min_reward:
            return "reward"
        return ""


def _is_same(left: str | None, right: str | None, judge: Judge) -> bool:
    if left is None or right is None:
        return left is right
    return left == right or judge.same(left, right)


def _grounds(find: Find, rank: int, support: float, wordings: int) -> Grounds:
    return {
        "rank": rank,
        "outcome": find.outcome,
        "is_sound": find.is_sound,
        "confidence": find.confidence,
        "support": support,
        "wordings": wordings,
    }


def distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Steps in which two texts differ, place by place."""
    same = sum(a == b for a, b in zip(left, right, strict=False))
    return max(len(left), len(right)) - same


def _vote(find: Find) -> float:
    """What a text says for its answer: its outcome score, or 1 where the tool found it sound."""
    return 1.0 if find.is_sound else (find.outcome or 0.0)


def evidence_of(finds: Sequence[Find], same: SameAnswer = eq) -> dict[str, Evidence]:
    """Family to what speaks for its best supported answer; of one search that is its own.

    Each search supports an answer by the best score among its texts that end with it; equal
    answers are one. Where support says nothing, more searches decide.
    """
    families: dict[str, list[Find]] = defaultdict(list)
    for find in finds:
        families[find.family].append(find)
    return {family: _evidence(members, same) for family, members in families.items()}


def _evidence(members: Sequence[Find], same: SameAnswer) -> Evidence:
    searches = len({f.search_id for f in members})
    answered = [f for f in members if f.answer is not None]
    if not answered:
        return Evidence(None, None, searches, 0.0, 0.0, 0.0, 0, 0.0)
    groups = grouped([f.answer for f in answered], same)
    behind: dict[int, list[Find]] = defaultdict(list)
    for group, find in zip(groups, answered, strict=True):
        behind[group].append(find)

    def support(texts: Sequence[Find]) -> float:
        best: dict[int, float] = {}
        for find in texts:
            best[find.search_id] = max(best.get(find.search_id, 0.0), _vote(find))
        return sum(best.values())

    def rank(texts: Sequence[Find]) -> tuple[float, float, str]:
        chosen = len({f.search_id for f in texts if f.is_chosen})
        first, second = (support(texts), chosen) if searches > 1 else (chosen, support(texts))
        return first, second, _name(texts)

    texts = max(behind.values(), key=rank)
    top = max(texts, key=lambda f: (_vote(f), -f.id))
    chosen = {f.search_id: f.confidence for f in texts if f.is_chosen}
    known = [f.is_correct for f in texts if f.is_correct is not None]
    return Evidence(
        texts[0].answer,
        known[0] if known else None,
        searches,
        len(chosen) / searches,
        support(texts),
        _vote(top),
        top.id,
        sum(chosen.values()) / len(chosen) if chosen else 0.0,
    )


def _name(texts: Sequence[Find]) -> str:
    return str(texts[0].answer)


def _log_odds(share: float) -> float:
    """Within the bounds of a score that one can believe."""
    kept = min(1 - LEAST, max(LEAST, share))
    return math.log(kept / (1 - kept))


def read_finds(session: Session, round_id: int) -> list[Find]:
    """All finished texts of a round's searches, in the order of the searches."""
    rows = session.execute(
        select(TrajectoryRow, SearchRow.confidence, ProblemRow)
        .join(SearchRow, SearchRow.id == TrajectoryRow.search_id)
        .join(ProblemRow, ProblemRow.id == SearchRow.problem_id)
        .where(SearchRow.round_id == round_id)
        .order_by(SearchRow.position, TrajectoryRow.id)
    )
    return [
        Find(
            row.id,
            row.sha,
            row.search_id,
            problem.family or problem.key,
            row.is_chosen,
            row.answer,
            row.outcome,
            row.is_sound,
            confidence or 0.0,
            tuple(step["text"] for step in row.steps["steps"]),
            len(row.tokens) // 4,
            row.is_correct,
            problem.answer,
            problem.text,
            problem.origin,
            problem.difficulty,
            unpack_tokens(row.prompt_tokens),
            unpack_tokens(row.tokens),
            tuple(step["tokens"] for step in row.steps["steps"]),
        )
        for row, confidence, problem in rows
    ]


def solve_rates(session: Session, run_id: int) -> dict[str, float]:
    """Problem key to the share of its search's texts that hold good, over a run's searches.

    A text holds good when the tool found it sound or, where no tool spoke, when its outcome score
    is at least one half.
    """
    is_good = (TrajectoryRow.is_sound.is_(True)) | (
        TrajectoryRow.is_sound.is_(None) & (TrajectoryRow.outcome >= SOUND_ENOUGH)
    )
    rows = session.execute(
        select(
            ProblemRow.key,
            func.sum(cast(func.coalesce(is_good, False), Integer)),
            func.count(),
        )
        .join(SearchRow, SearchRow.problem_id == ProblemRow.id)
        .join(Round, Round.id == SearchRow.round_id)
        .join(TrajectoryRow, TrajectoryRow.search_id == SearchRow.id)
        .where(
            Round.run_id == run_id,
            # A text that nobody judged is neither good nor bad.
            TrajectoryRow.is_sound.is_not(None) | TrajectoryRow.outcome.is_not(None),
        )
        .group_by(ProblemRow.key)
    )
    return {key: float(good) / count for key, good, count in rows}
