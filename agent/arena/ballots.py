"""Pairs of answers as a judge sees them: who wrote which is known to this file alone."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agent.arena.bradley_terry import fitted
from agent.arena.pairing import chances, drawn, met_of
from agent.arena.votes import Floats, Vote, vote_table
from search.errors import NotFoundError, UsageError
from search.randomness import derive_seed
from store.arena import (
    AnsweredProblem,
    ArenaAnswer,
    CastVote,
    StoredVote,
    compared_by,
    pair_name,
    record_votes,
    votes_cast,
)
from store.database import Store
from store.states import Choice

AUTOMATIC = ("verifier:", "model:")
"""What the names of judges begin with that are nobody."""
STRENGTHS = (1, 2, 3)
MOST_NUMBER = 10**15
"""Of a ballot."""
MOST_OPEN = 64
"""Ballots that were shown and not voted on; of more the oldest is forgotten, and comes again."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """What a judge is shown. `number` is its name until the vote is cast: drawn at random, so that
    a page which was left open names no ballot of a later box."""

    number: int
    problem: str
    left: str
    right: str
    num_open: int
    """Comparisons that are left for this judge, this one among them."""


@dataclass(frozen=True, slots=True)
class _Shown:
    vote: CastVote
    """With a choice that is not yet made."""
    since: float


class BallotBox:
    """Ballots for one judge over one task's answers.

    A judge compares two contestants on a problem once, and never two equal texts. What is shown
    does not come again from this box, voted on or not, unless it is forgotten. The pair is
    drawn where a vote teaches most (`pairing`), the problem among those that are open for it, and
    the sides by lot; the seed of the draw is stored with the vote.
    """

    def __init__(
        self,
        store: Store,
        task: str,
        problems: Sequence[AnsweredProblem],
        judge: str,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises UsageError where no problem has two answers that differ."""
        self.store, self.task, self.judge, self.seed, self.clock = store, task, judge, seed, clock
        self._problems = {p.key: p for p in problems}
        self.contestants = tuple(sorted({a.contestant for p in problems for a in p.answers}))
        with store.session() as session:
            done = compared_by(session, task, judge)
            known = set(self.contestants)
            self._votes = [
                v
                for v in as_votes(votes_cast(session, task))
                if v.left in known and v.right in known
            ]
            """Of all judges, as they were then, and this box's own since."""
        self._open = _open_pairs(problems, done)
        if not any(pairs_of(p) for p in problems):
            raise UsageError(
                f"no problem of task {task!r} has two different written answers",
                "measure two policies with `ratchet evaluate --store URL` or a round first",
            )
        self._num_open = sum(map(len, self._open.values()))
        self._num_drawn = len(done)
        self._shown: dict[int, _Shown] = {}
        self._chances = self._weighed()

    @property
    def num_open(self) -> int:
        return self._num_open

    def ballot(self) -> Ballot | None:
        """Another comparison; None when the judge has made all of them."""
        place = {name: i for i, name in enumerate(self.contestants)}
        possible = np.zeros((len(place), len(place)))
        for (a, b), keys in self._open.items():
            possible[place[a], place[b]] = float(bool(keys))
        if not possible.any():
            return None
        seed = derive_seed(self.seed, self.judge, self._num_drawn)
        self._num_drawn += 1
        noise = np.random.default_rng(seed)
        draw = drawn(self.contestants, possible, self._chances, noise)
        pair = (draw.left, draw.right) if draw.left < draw.right else (draw.right, draw.left)
        listed = sorted(self._open[pair])
        problem = self._problems[listed[int(noise.integers(len(listed)))]]
        by_name = {a.contestant: a for a in problem.answers}
        left, right = by_name[draw.left], by_name[draw.right]
        vote = CastVote(
            problem.key, left, right, Choice.TIE, self.judge, seed=seed, chance=draw.chance
        )
        number = secrets.randbelow(MOST_NUMBER)
        ballot = Ballot(number, problem.text, left.text, right.text, self._num_open)
        self._open[pair].remove(problem.key)
        self._num_open -= 1
        self._shown[number] = _Shown(vote, self.clock())
        if len(self._shown) > MOST_OPEN:
            self._forget(next(iter(self._shown)))
        return ballot

    def cast(self, number: int, choice: Choice, strength: int = 1) -> CastVote:
        """Write the vote; it says who wrote which. Raises NotFoundError for a ballot that is not
        open, UsageError for a strength out of 1 to 3."""
        if strength not in STRENGTHS:
            raise UsageError(f"there is no strength {strength}", "1 slightly, 2 clearly, 3 much")
        shown = self._found(number)
        seconds = self.clock() - shown.since
        vote = replace(shown.vote, choice=choice, strength=strength, seconds=seconds)
        with self.store.session() as session:
            num_new = record_votes(session, [vote])
        del self._shown[number]
        if not num_new:
            raise UsageError(
                f"{self.judge} has voted on this pair before, in another place",
                "the first vote stays: take the next ballot",
            )
        names = (vote.left.contestant, vote.right.contestant)
        self._votes.append(Vote(*names, choice, vote.problem, self.judge))
        self._chances = self._weighed()
        return vote

    def drop(self, number: int) -> None:
        """Leave a comparison out, as long as this box lives. Raises NotFoundError for a ballot that
        is not open."""
        self._found(number)
        del self._shown[number]

    def _found(self, number: int) -> _Shown:
        shown = self._shown.get(number)
        if shown is None:
            raise NotFoundError(
                f"ballot {number} is not open", "it was voted on, or is too old: take the next one"
            )
        return shown

    def _forget(self, number: int) -> None:
        """Open the comparison of a ballot again."""
        vote = self._shown.pop(number).vote
        one, other = sorted((vote.left.contestant, vote.right.contestant))
        self._open[one, other].add(vote.problem)
        self._num_open += 1

    def _weighed(self) -> Floats:
        place = {name: i for i, name in enumerate(self.contestants)}
        strengths = np.zeros(len(place))
        met = np.zeros((len(place), len(place)))
        if self._votes:
            table = vote_table(self._votes)
            met = met_of(table, self.contestants)
            try:
                found = fitted(table, clusters="none")
            except UsageError:  # not all were compared yet: nothing says who is better
                return chances(self.contestants, met, strengths)
            for name, value in zip(found.contestants, found.values, strict=True):
                strengths[place[name]] = value
        return chances(self.contestants, met, strengths)


def check_judge(name: str) -> None:
    """Raises UsageError for a name that no person may have."""
    if not name.strip() or name.strip().startswith(AUTOMATIC):
        raise UsageError(
            f"{name!r} is no name of a judge", "take your own; verifier: and model: are not people"
        )


def _open_pairs(
    problems: Sequence[AnsweredProblem], done: set[tuple[str, str]]
) -> dict[tuple[str, str], set[str]]:
    """By pair of contestants the problems on which their texts differ and were not compared."""
    found: dict[tuple[str, str], set[str]] = {}
    for problem in problems:
        for one, other in pairs_of(problem):
            name = pair_name(one.contestant, other.contestant)
            if (problem.key, name) not in done:
                found.setdefault((one.contestant, other.contestant), set()).add(problem.key)
    return found


def pairs_of(problem: AnsweredProblem) -> list[tuple[ArenaAnswer, ArenaAnswer]]:
    """Pairs of answers whose texts differ; spaces at the ends do not count."""
    answers = problem.answers
    return [
        (a, b)
        for i, a in enumerate(answers)
        for b in answers[i + 1 :]
        if a.text.strip() != b.text.strip()
    ]


def as_votes(votes: Sequence[StoredVote], is_weighted: bool = False) -> list[Vote]:
    """Stored votes as the fit takes them; weighted, each counts one over its pair's chance."""
    return [
        Vote(v.left, v.right, v.choice, v.problem, v.judge, 1 / v.chance if is_weighted else 1.0)
        for v in votes
    ]
