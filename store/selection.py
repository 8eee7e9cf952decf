"""Which of a round's finished texts are trusted enough to learn from, and why."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.orm import Session

from store.schema import ProblemRow, Round, SearchRow, TrajectoryRow

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
class SelectionRule:
    """Which trajectories a round may learn from."""

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

    def select(self, finds: Sequence[Find]) -> list[Selected]:
        """The trusted ones, search by search in their order, the search's own answer first.

        Where a problem was searched in several wordings, the answer that they support best counts
        in each of them, whichever the search itself chose.
        """
        supported = _support(finds)
        groups: dict[int, list[Find]] = defaultdict(list)
        for find in finds:
            groups[find.search_id].append(find)
        kept: list[Selected] = []
        for group in groups.values():
            answer, support, size = supported[group[0].family]
            if size > 1 and support < self.min_support:
                continue
            if size == 1:
                # A problem in one wording only: the search's own answer counts.
                answer = next((f.answer for f in group if f.is_chosen), None)
                support = max((_vote(f) for f in group if f.answer == answer), default=0.0)
                if support < self.min_support:
                    continue
                group = [f for f in group if f.is_chosen or f.answer is not None]
            fitting = [f for f in group if f.answer == answer and self.admits(f)]
            fitting.sort(
                key=lambda f: (not f.is_chosen, f.is_sound is not True, -(f.outcome or 0.0), f.id)
            )
            taken: list[Find] = []
            for find in fitting:
                if len(taken) < self.best and all(
                    distance(find.steps, t.steps) >= self.min_distance for t in taken
                ):
                    taken.append(find)
                    kept.append(
                        Selected(
                            find,
                            {
                                "rank": len(taken),
                                "outcome": find.outcome,
                                "is_sound": find.is_sound,
                                "confidence": find.confidence,
                                "support": support,
                                "wordings": size,
                            },
                        )
                    )
        return kept

    def admits(self, find: Find) -> bool:
        """Whether a text passes by its own figures."""
        # Without a trusted outcome critic the tool's word is enough.
        is_trusted = (
            bool(find.is_sound) if find.outcome is None else find.outcome >= self.min_outcome
        )
        return (
            is_trusted
            and (find.is_sound is not False or not self.must_be_sound)
            and (find.answer is not None or not self.must_answer)
            and find.confidence >= self.min_confidence
            and (not self.max_tokens or find.num_tokens <= self.max_tokens)
        )


def distance(left: Sequence[str], right: Sequence[str]) -> int:
    """Steps in which two texts differ, place by place."""
    same = sum(a == b for a, b in zip(left, right, strict=False))
    return max(len(left), len(right)) - same


def _vote(find: Find) -> float:
    """What a text says for its answer: its outcome score, or 1 where the tool found it sound."""
    return 1.0 if find.is_sound else (find.outcome or 0.0)


def _support(finds: Sequence[Find]) -> dict[str, tuple[str | None, float, int]]:
    """Family to its best supported answer, what supports it, and how many searches it has.

    Each search supports an answer by the best score among its texts that end with it.
    """
    best: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    searches: dict[str, set[int]] = defaultdict(set)
    for find in finds:
        searches[find.family].add(find.search_id)
        if find.answer is not None:
            by_search = best[find.family][find.answer]
            by_search[find.search_id] = max(by_search.get(find.search_id, 0.0), _vote(find))
    found: dict[str, tuple[str | None, float, int]] = {}
    for family, members in searches.items():
        sums = {answer: sum(by.values()) for answer, by in best[family].items()}
        top = max(sums.items(), key=lambda a: (a[1], a[0]), default=(None, 0.0))
        found[family] = (*top, len(members))
    return found


def read_finds(session: Session, round_id: int) -> list[Find]:
    """All finished texts of a round's searches, in the order of the searches."""
    rows = session.execute(
        select(TrajectoryRow, SearchRow.confidence, ProblemRow.key, ProblemRow.family)
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
            family or key,
            row.is_chosen,
            row.answer,
            row.outcome,
            row.is_sound,
            confidence or 0.0,
            tuple(step["text"] for step in row.steps["steps"]),
            len(row.tokens) // 4,
        )
        for row, confidence, key, family in rows
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
