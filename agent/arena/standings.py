"""All that votes say of a task's contestants and of those who judged them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent.arena.ballots import AUTOMATIC, as_votes
from agent.arena.bradley_terry import FEWEST_JUDGES, FEWEST_PROBLEMS, Strengths, Ties, elo, fitted
from agent.arena.judges import JudgeFit, PositionBias, agreement, judge_fits, position_bias
from agent.arena.ranks import RankSet, rank_sets
from agent.arena.votes import Vote, vote_table
from store.arena import StoredVote
from store.states import Choice


@dataclass(frozen=True, slots=True)
class Standing:
    contestant: str
    rating: float
    """Elo points; the mean contestant has 1000."""
    low: float | None
    high: float | None
    """95 % interval; None where no vote bounds that end."""
    ranks: RankSet
    wins: int
    losses: int
    ties: int

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties


@dataclass(frozen=True, slots=True)
class Standings:
    rows: tuple[Standing, ...]
    """Best first."""
    num_votes: int
    num_problems: int
    tie_share: float
    position: PositionBias
    """Of people: a verifier sees no sides, and a model is asked both ways round."""
    kappa: float | None
    num_repeated: int
    """Comparisons that several judges made, which kappa is of."""
    judges: tuple[JudgeFit, ...]
    clusters: str
    design_effect: float
    tie: float | None
    """Davidson's nu; None where a tie is half a win."""
    notes: tuple[str, ...]
    """What a reader should know before believing the table."""


def standings(
    votes: Sequence[StoredVote], ties: Ties = "half", is_weighted: bool = False, seed: int = 0
) -> Standings:
    """Raises UsageError without votes, and where contestants were not all compared with each other,
    directly or over others."""
    given = as_votes(votes, is_weighted)
    table = vote_table(given)
    strengths = fitted(table, ties)
    sets = rank_sets(strengths, seed=seed)
    tally = _tallied(given)
    rows = []
    for i, name in enumerate(strengths.contestants):
        low, high = strengths.intervals()[i]
        rating, low, high = elo([strengths.values[i], low, high])
        told = tally[name]
        rows.append(
            Standing(
                name,
                rating,
                low if math.isfinite(low) else None,
                high if math.isfinite(high) else None,
                sets[i],
                told["won"],
                told["lost"],
                told["tied"],
            )
        )
    shown = [v for v in given if not v.judge.startswith(AUTOMATIC)]
    kappa, num_repeated = agreement(given)
    fits = tuple(judge_fits(given))
    num_tied = sum(v.choice in (Choice.TIE, Choice.BAD) for v in given)
    return Standings(
        tuple(sorted(rows, key=lambda r: (-r.rating, r.contestant))),
        len(given),
        len(table.problems),
        num_tied / len(given),
        position_bias(shown),
        kappa,
        num_repeated,
        fits,
        strengths.clusters,
        strengths.design_effect,
        strengths.tie,
        tuple(_notes(strengths, fits, len(table.judges), len(table.problems))),
    )


def _tallied(votes: Sequence[Vote]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for vote in votes:
        left, right = (found.setdefault(n, Counter()) for n in (vote.left, vote.right))
        if vote.choice in (Choice.TIE, Choice.BAD):
            left["tied"] += 1
            right["tied"] += 1
        else:
            won, lost = (left, right) if vote.choice is Choice.LEFT else (right, left)
            won["won"] += 1
            lost["lost"] += 1
    return found


def _notes(
    strengths: Strengths, fits: Sequence[JudgeFit], num_judges: int, num_problems: int
) -> list[str]:
    notes = []
    for name, lost, won in zip(
        strengths.contestants, strengths.never_lost, strengths.never_won, strict=True
    ):
        if lost:
            notes.append(f"{name} never lost: how far it is ahead has no upper bound")
        if won:
            notes.append(f"{name} never won: how far it is behind has no lower bound")
    if strengths.is_separated:
        notes.append("some contestants lost to none of the others: the gap has no upper bound")
    if num_problems < FEWEST_PROBLEMS:
        notes.append(
            f"{num_problems} problems: votes on one are taken as independent (from "
            f"{FEWEST_PROBLEMS} on they are taken together)"
        )
    if num_judges < FEWEST_JUDGES:
        notes.append(
            f"{num_judges} {'judge' if num_judges == 1 else 'judges'}: intervals are of these "
            f"judges, and say nothing of others (from {FEWEST_JUDGES} on they do)"
        )
    notes += [
        f"the votes of {f.judge} go against the others' (p = {f.p:.2g}): look at them"
        for f in fits
        if f.is_flagged
    ]
    return notes
